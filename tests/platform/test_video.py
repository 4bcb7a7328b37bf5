import os

import av
import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from squall.platform import decoding
from squall.platform.errors import DataError
from squall.platform.records import MediaType
from squall.platform.video import (
    ClipCache,
    FrameSampling,
    encode_video,
    fit_size,
    load_clip,
    sample_indices,
    token_count,
)

NATIVE = FrameSampling(max_frames=1000, resize=(56, 84))


def moving_frames(count=30, height=56, width=84):
    """Smooth frames whose mean brightness, 20 + 6 t, tells which one they are."""
    ramp = np.linspace(-10, 10, width)[None, :, None] * np.array([1.0, -1.0, 0.5])
    frames = [np.broadcast_to(20 + 6 * t + ramp, (height, width, 3)) for t in range(count)]
    return np.stack(frames).clip(0, 255).round().astype(np.uint8)


def frame_numbers(clip):
    return ((clip.frames.mean(axis=(1, 2, 3)) - 20) / 6).round().astype(int).tolist()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "ok.mp4"
    encode_video(path, moving_frames(), fps=10, crf=10)
    return path


def load(path, sampling=NATIVE, **arguments):
    return load_clip(path, sampling, sample_id="q1", **arguments)


def test_round_trip_through_h264(video):
    clip = load(video)
    assert clip.frames.shape == (30, 56, 84, 3) and clip.frames.dtype == np.uint8
    assert (clip.fps, clip.source_fps, clip.source_indices) == (10.0, 10.0, tuple(range(30)))
    assert np.abs(clip.frames.astype(int) - moving_frames()).mean() < 2
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    assert [file.name for file in video.parent.iterdir()] == ["ok.mp4"]


def test_decord_and_pyav_agree(video):
    by_decord, by_pyav = load(video, reader="decord"), load(video, reader="pyav")
    common = min(len(by_decord.frames), len(by_pyav.frames))
    assert abs(len(by_decord.frames) - len(by_pyav.frames)) <= 1 and common >= 29
    difference = np.abs(by_decord.frames[:common].astype(int) - by_pyav.frames[:common])
    assert difference.max() <= 2
    assert by_decord.source_fps == by_pyav.source_fps


def test_the_frames_asked_for_are_the_frames_that_come(video):
    sampling = FrameSampling(max_frames=5, resize=(56, 84))
    for reader in ("decord", "pyav"):
        clip = load(video, sampling, reader=reader)
        assert clip.source_indices == (3, 9, 15, 21, 27)
        assert frame_numbers(clip) == [3, 9, 15, 21, 27]
        assert clip.fps == pytest.approx(10 * 5 / 30)


@pytest.mark.parametrize(("count", "sampling", "expected"), [
    (8, FrameSampling(max_frames=16), list(range(8))),
    (100, FrameSampling(max_frames=4), [12, 37, 62, 87]),
    (100, FrameSampling(max_frames=16, fps=0.5), [10, 30, 50, 70, 90]),
    (100, FrameSampling(max_frames=4, fps=2), [12, 37, 62, 87]),
    (100, FrameSampling(max_frames=16, min_frames=2, fps=0.01), [25, 75]),
    (5, FrameSampling(max_frames=16, fps=30), [0, 1, 2, 3, 4]),
    (1, FrameSampling(fps=0.01), [0]),
])
def test_sample_indices_at_10_fps(count, sampling, expected):
    assert sample_indices(count, 10.0, sampling) == expected


def qwen_smart_resize(height, width, block, max_pixels):
    """The rule of Qwen2-VL's processors, without its lower bound."""
    rows, columns = round(height / block) * block, round(width / block) * block
    if rows * columns > max_pixels:
        beta = (height * width / max_pixels) ** 0.5
        rows = max(block, int(height / beta // block) * block)
        columns = max(block, int(width / beta // block) * block)
    return rows, columns


@pytest.mark.parametrize("size", [(240, 320), (720, 1280), (1280, 720), (56, 56), (100, 2000), (405, 720), (45, 77)])
@pytest.mark.parametrize("block", [28, 32])
def test_fit_size_is_qwens_rule_and_a_fixed_point_of_it(size, block):
    sampling = FrameSampling(size_multiple=block)
    fitted = fit_size(*size, sampling)
    assert fitted == qwen_smart_resize(*size, block, sampling.max_pixels)
    assert qwen_smart_resize(*fitted, block, sampling.max_pixels) == fitted


@pytest.mark.parametrize("size", [(1, 1), (10, 20), (28, 20000), (20000, 28), (3, 5000)])
def test_fit_size_keeps_its_bounds_at_extremes(size):
    height, width = fit_size(*size, FrameSampling())
    assert height % 28 == 0 and width % 28 == 0 and min(height, width) >= 28
    assert height * width <= 128 * 28 * 28


def test_frames_longer_than_200_to_1_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "long.png"), np.zeros((28, 28 * 300, 3), np.uint8))
    with pytest.raises(DataError, match="28x8400 are longer than 200:1") as caught:
        load(tmp_path / "long.png", FrameSampling(max_pixels=10**7), media_type=MediaType.IMAGE)
    assert caught.value.reason == "aspect_ratio"


def test_loaded_size_and_token_count(video):
    clip = load(video, FrameSampling(max_frames=5, max_pixels=4 * 28 * 28))
    assert clip.frames.shape == (5, 28, 56, 3)
    assert token_count(28, 56, 5) == 3 * 1 * 2
    assert token_count(224, 280, 16) == 8 * 8 * 10
    assert token_count(28, 28, 1) == 1
    with pytest.raises(ValueError, match="multiples of 28"):
        token_count(30, 28, 2)


@pytest.mark.parametrize("values", [
    {"max_frames": 0}, {"fps": 0}, {"min_frames": 17}, {"max_pixels": 783}, {"resize": (56, 57)}, {"resize": (0, 56)},
])
def test_impossible_sampling_is_refused(values):
    with pytest.raises(ValidationError):
        FrameSampling(**values)


def remux(path, source, format, title=None, **options):
    with av.open(str(source)) as given, av.open(str(path), "w", format=format, options=options) as copy:
        if title:
            copy.metadata["title"] = title
        stream = copy.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)


def cut(path, source):
    data = source.read_bytes()
    path.write_bytes(data[:len(data) // 2])


def cut_after_header(path, source):
    """The index is at the front and claims every frame; the second half of the frames is missing."""
    remux(path, source, "mp4", movflags="faststart")
    data = path.read_bytes()
    path.write_bytes(data[:data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])


def audio_only(path, source):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def zero_frames(path, source, format="mp4"):
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.start_encoding()


BROKEN = {
    "cut": (cut, "not a readable video"),
    "cut_after_header": (cut_after_header, "decoding broke off"),
    "audio_only": (audio_only, "no video stream (it holds audio)"),
    "zero_frames": (zero_frames, "no video stream (it holds no stream at all)"),
    "zero_frames_avi": (lambda path, source: zero_frames(path, source, "avi"), "no frame can be decoded"),
    "text": (lambda path, source: path.write_text("not a video\n" * 99), "not a readable video"),
    "empty": (lambda path, source: path.touch(), "not a readable video"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_broken_file_is_one_line_with_file_sample_and_reason(kind, tmp_path, video):
    make, problem = BROKEN[kind]
    path = tmp_path / f"{kind}.mp4"
    make(path, video)
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: sample q1: {problem}")
    assert "\n" not in str(caught.value)
    assert (caught.value.reason, caught.value.sample_id) == ("decode_error", "q1")


@pytest.mark.parametrize("media_type", list(MediaType))
def test_missing_file_and_folder(tmp_path, media_type):
    (tmp_path / "folder.mp4").mkdir()
    for name, problem in (("no.mp4", "does not exist"), ("folder.mp4", "is a folder")):
        with pytest.raises(DataError, match=problem) as caught:
            load(tmp_path / name, media_type=media_type)
        assert (caught.value.reason, caught.value.sample_id) == ("missing_media", "q1")


def test_metadata_that_is_not_utf8_does_not_matter(tmp_path, video):
    path = tmp_path / "latin.mp4"
    remux(path, video, "mp4", title="MARKMARK")
    data = path.read_bytes()
    assert b"MARKMARK" in data
    path.write_bytes(data.replace(b"MARKMARK", b"MARK\xe9\xff\xfe!"))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path))
    for reader in ("decord", "pyav"):
        assert len(load(path, reader=reader).frames) == 30


def test_a_container_that_claims_too_many_frames_is_counted_by_decoding(tmp_path):
    path = tmp_path / "claims.avi"
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 84, 56, "yuv420p"
        for frame in moving_frames():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    length = data.index(b"strh") + 8 + 32  # dwLength of the stream header
    assert int.from_bytes(data[length:length + 4], "little") == 30
    data[length:length + 4] = (444).to_bytes(4, "little")
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 444
    clip = load(path, FrameSampling(max_frames=3, resize=(56, 84)))
    assert clip.source_indices == (5, 15, 25) and frame_numbers(clip) == [5, 15, 25]


def test_too_few_frames(video):
    with pytest.raises(DataError, match="30 frames decode, min_frames is 31") as caught:
        load(video, FrameSampling(max_frames=40, min_frames=31))
    assert caught.value.reason == "too_few_frames"


def test_dead_decord_is_named_and_pyav_reads(video, monkeypatch):
    monkeypatch.setattr("decord.__version__", "0.6.0")
    decoding._decord.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="decord 0.6.0 is not the maintained package.*decord2"):
            assert len(load(video).frames) == 30
    finally:
        decoding._decord.cache_clear()


def test_image_is_a_clip_of_one_frame(tmp_path):
    image = np.zeros((56, 84, 3), np.uint8)
    image[..., 0] = 200
    cv2.imwrite(str(tmp_path / "red.png"), image[..., ::-1])
    clip = load(tmp_path / "red.png", FrameSampling(), media_type=MediaType.IMAGE)
    assert clip.media_type is MediaType.IMAGE and np.array_equal(clip.frames, image[None])
    (tmp_path / "bad.png").write_text("no")
    with pytest.raises(DataError, match="not a readable image") as caught:
        load(tmp_path / "bad.png", media_type=MediaType.IMAGE)
    assert caught.value.reason == "decode_error"


@pytest.mark.parametrize(("frames", "fps", "problem"), [
    (np.zeros((2, 55, 56, 3), np.uint8), 10, "even height and width, got 55x56"),
    (np.zeros((0, 56, 56, 3), np.uint8), 10, "no frames"),
    (np.zeros((2, 56, 56, 3), np.float32), 10, "expected uint8 frames"),
    (np.zeros((2, 56, 56), np.uint8), 10, "expected uint8 frames"),
    (np.zeros((2, 56, 56, 3), np.uint8), 0, "fps must be a positive number"),
])
def test_what_cannot_be_encoded(tmp_path, frames, fps, problem):
    with pytest.raises(DataError, match=problem):
        encode_video(tmp_path / "x.mp4", frames, fps)
    assert list(tmp_path.iterdir()) == []


def test_fractional_rate_survives_encoding(tmp_path):
    encode_video(tmp_path / "ntsc.mp4", moving_frames(6), fps=30000 / 1001)
    assert load(tmp_path / "ntsc.mp4").source_fps == pytest.approx(29.97003, abs=1e-3)


SMALL = FrameSampling(max_frames=4, resize=(56, 84))


def cached(cache, path, sampling=SMALL):
    return cache.load(path, sampling, sample_id="q1")


def test_cache_decodes_once_and_shares_its_folder(tmp_path, video):
    first, second = ClipCache(tmp_path, 10**8), ClipCache(tmp_path, 10**8)
    clip, from_disk = cached(first, video), cached(second, video)
    assert clip.content_hash == from_disk.content_hash == load(video, SMALL).content_hash
    assert np.array_equal(clip.frames, from_disk.frames)
    assert (clip.fps, clip.source_indices) == (from_disk.fps, from_disk.source_indices)
    assert cached(second, video) is from_disk
    assert (first.misses, first.hits, second.misses, second.hits) == (1, 0, 0, 2)
    assert not clip.frames.flags.writeable and not from_disk.frames.flags.writeable
    cached(first, video, FrameSampling(max_frames=5, resize=(56, 84)))
    assert first.misses == 2
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors"}


def test_changed_media_and_damaged_cache_files_are_decoded_again(tmp_path, video):
    media = tmp_path / "copy.mp4"
    media.write_bytes(video.read_bytes())
    folder = tmp_path / "cache"
    original = cached(ClipCache(folder, 10**8), media).content_hash
    (file,) = folder.iterdir()
    for damage in (b"junk", file.read_bytes()[:-1] + b"\x00"):
        file.write_bytes(damage)
        cache = ClipCache(folder, 10**8)
        assert cached(cache, media).content_hash == original and cache.misses == 1
    encode_video(media, moving_frames()[::-1], fps=10)
    os.utime(media, ns=(1, 1))
    assert cached(cache, media).content_hash != original


def test_disk_and_memory_stay_within_their_bounds(tmp_path, video):
    clip_bytes = 4 * 56 * 84 * 3
    cache = ClipCache(tmp_path, max_bytes=3 * clip_bytes + 2000, memory_bytes=clip_bytes)
    for max_frames in (4, 4, 4, 4, 4):
        cached(cache, video, FrameSampling(max_frames=max_frames, resize=(56, 84), max_pixels=10_000 + cache.misses))
    assert cache.misses == 5
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 4 * (clip_bytes + 2000)
    memory = ClipCache(None, 0, memory_bytes=clip_bytes)
    first = cached(memory, video)
    assert cached(memory, video) is first
    cached(memory, video, FrameSampling(max_frames=3, resize=(56, 84)))
    assert cached(memory, video) is not first and memory.misses == 3


def test_cache_passes_errors_on_and_keeps_nothing(tmp_path):
    cache = ClipCache(tmp_path, 10**8)
    with pytest.raises(DataError, match="does not exist"):
        cached(cache, tmp_path / "no.mp4")
    assert list(tmp_path.iterdir()) == [] and cache.misses == 0
