"""Reading and writing videos chunk by chunk: all frames, their times, their hash, and what is said of files that are broken."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import squall.platform.streaming as streaming
from squall.platform.errors import DataError
from squall.platform.streaming import Chunk, FrameHash, HeldFrames, Stopwatch, VideoFile, write_video

FOOTAGE = Path(streaming.__file__).parent / "embedded" / "footage"


def moving_frames(count: int = 30, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames whose mean brightness, 20 + 6 t, tells which one they are."""
    ramp = np.linspace(-10, 10, width)[None, :, None] * np.array([1.0, -1.0, 0.5])
    frames = [np.broadcast_to(20 + 6 * t + ramp, (height, width, 3)) for t in range(count)]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def write(path: Path, frames: np.ndarray, fps: float = 25.0, times: np.ndarray | None = None, **settings: object) -> str:
    source = HeldFrames(frames, fps)
    with write_video(path, fps, crf=8, preset="ultrafast", **settings) as writer:
        if times is None:
            for chunk in source.chunks():
                writer.write(chunk)
        else:
            writer.write(Chunk(frames, times))
    return writer.content_hash


def numbers(source: VideoFile) -> list[int]:
    return [round((frame.mean() - 20) / 6) for chunk in source.chunks() for frame in chunk.frames]


@pytest.mark.parametrize("fps", [25.0, 30000 / 1001, 24000 / 1001, 10.0, 7.5])
def test_frames_and_times_come_back(tmp_path: Path, fps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 7 * 48 * 64 * 3)
    path = tmp_path / "a.mp4"
    write(path, moving_frames(), fps)
    source = VideoFile(path, sample_id="a")
    assert [len(chunk.frames) for chunk in source.chunks()] == [7, 7, 7, 7, 2]
    assert numbers(source) == list(range(30)) and source.fps == pytest.approx(fps)
    assert np.allclose(source.times(), np.arange(30) / fps, atol=1e-9)
    assert np.array_equal(np.concatenate([chunk.times for chunk in source.chunks()]), source.times())
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_every_frame_keeps_a_time_of_its_own(tmp_path: Path) -> None:
    kept = np.array([3, 4, 9, 10, 11, 25, 29])
    path = tmp_path / "cut.mp4"
    write(path, moving_frames()[kept], 25 * 7 / 30, kept / 25, clock_fps=25.0)
    with av.open(str(path)) as container:
        stamps = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    assert np.allclose(np.array(stamps) - stamps[0], (kept - 3) / 25, atol=1e-9)
    again = VideoFile(path, sample_id="a")
    assert np.allclose(again.times(), (kept - 3) / 25, atol=1e-4) and numbers(again) == kept.tolist()


def test_odd_sides_lose_a_row_or_column_and_pixels_that_are_not_square_stay_so(tmp_path: Path) -> None:
    path = tmp_path / "odd.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 65, 49, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        for frame in moving_frames(5, 49, 65):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    source = VideoFile(path, sample_id="a")
    (chunk,) = source.chunks()
    assert chunk.frames.shape == (5, 48, 64, 3) and source.pixel_aspect == Fraction(4, 3)
    assert np.allclose(chunk.times, np.arange(5) / 10)  # Matroska rounds to milliseconds
    write(tmp_path / "even.mp4", chunk.frames, 10, pixel_aspect=source.pixel_aspect)
    assert VideoFile(tmp_path / "even.mp4", sample_id="a").pixel_aspect == Fraction(4, 3)


def test_the_hash_does_not_depend_on_how_frames_are_split(tmp_path: Path) -> None:
    frames = moving_frames()
    whole, split, slower = FrameHash(25.0), FrameHash(25.0), FrameHash(24.0)
    whole.update(frames)
    slower.update(frames)
    for part in np.array_split(frames, 4):
        split.update(part)
    assert whole.hexdigest() == split.hexdigest() == write(tmp_path / "a.mp4", frames)
    other = FrameHash(25.0)
    other.update(frames[:-1])
    assert len({whole.hexdigest(), slower.hexdigest(), other.hexdigest()}) == 3


@pytest.mark.parametrize(("name", "data", "problem"), [
    ("text.mp4", b"not a video\n" * 99, "not a readable video (Invalid data found when processing input); replace the file"),
    ("empty.mp4", b"", "not a readable video (Invalid data found when processing input); replace the file"),
])
def test_files_that_are_no_videos(tmp_path: Path, name: str, data: bytes, problem: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        VideoFile(path, sample_id="q1")
    assert str(caught.value) == f"{path}: sample q1: {problem}" and caught.value.reason == "decode_error"


def test_missing_files_folders_and_files_cut_in_the_middle(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        VideoFile(tmp_path / "no.mp4", sample_id="q1")
    with pytest.raises(DataError, match="is a folder, not a file"):
        VideoFile(tmp_path, sample_id="q1")
    rng = np.random.default_rng(0)
    with av.open(str(tmp_path / "whole.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(30):
            frame = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])
    with pytest.raises(DataError, match="decoding broke off"):
        list(VideoFile(tmp_path / "cut.mp4", sample_id="q1").chunks())


def test_an_error_on_the_way_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), write_video(tmp_path / "a.mp4", 10) as writer:
        writer.write(Chunk(moving_frames(5), np.arange(5) / 10))
        raise ZeroDivisionError
    with pytest.raises(DataError, match="even height and width"), write_video(tmp_path / "b.mp4", 10) as writer:
        writer.write(Chunk(moving_frames(5, 47, 63), np.arange(5) / 10))
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from squall.platform.errors import FULL_DISK
from squall.platform.streaming import Chunk, write_video
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
noise = np.random.default_rng(0).integers(0, 256, (40, 96, 128, 3), dtype=np.uint8)
try:
    with write_video(Path(sys.argv[1]), 25) as writer:
        writer.write(Chunk(noise, np.arange(40) / 25))
except OSError as error:
    print("full" if error.errno in FULL_DISK else error)
"""


def test_a_full_disk_is_an_os_error_that_says_so_and_leaves_no_file(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "a.mp4")], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "full", done.stderr
    assert list(tmp_path.iterdir()) == []


LONG = """
import resource, sys
from pathlib import Path
import numpy as np
from squall.platform.streaming import Chunk, VideoFile, write_video
path, frames = Path(sys.argv[1]), int(sys.argv[2])
picture = np.random.default_rng(0).integers(0, 256, (1, 720, 1280, 3), dtype=np.uint8)
with write_video(path, 25, preset="ultrafast", crf=51) as writer:
    for t in range(frames):
        writer.write(Chunk(picture, np.array([t / 25])))
source = VideoFile(path, sample_id="a")
assert sum(len(chunk.frames) for chunk in source.chunks()) == frames
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    def peak_mib(frames: int) -> int:
        command = [sys.executable, "-c", LONG, str(tmp_path / "a.mp4"), str(frames)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)

    short, long = peak_mib(25), peak_mib(75)
    assert long - short < 60, (short, long)  # the frames that came in addition are 132 MiB


def test_stages_are_timed(tmp_path: Path) -> None:
    watch = Stopwatch()
    source = VideoFile(FOOTAGE / "birds.mp4", sample_id="birds", watch=watch)
    with write_video(tmp_path / "a.mp4", source.fps, watch=watch) as writer:
        for chunk in source.chunks():
            writer.write(chunk)
    assert set(watch.seconds) == {"decode", "encode", "hash"} and all(seconds > 0 for seconds in watch.seconds.values())
