"""What sensor and codec add."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction

import cv2
import numpy as np

from squall.algorithms.corruption.compositing import Grain
from squall.algorithms.corruption.registry import Parameter, corruption
from squall.algorithms.corruption.timeline import Timeline

_LIVE = "mbtree=0:rc-lookahead=0:sync-lookahead=0"
"""As a live camera encodes, without a look ahead; with one, x264 does not always give the same bits again."""


@corruption("sensor", shot=Parameter(lambda x: 55 * x, 0, 120), read=Parameter(lambda x: 12 * x, 0, 60))
def noise(frames: np.ndarray, timeline: Timeline, *, shot: float, read: float) -> None:
    """Noise of a sensor in little light, new in every frame.

    Its variance is `read`^2 + `shot`^2 * v for a brightness v in 0..1 (deviations in grey levels, 0 to 255).
    """
    deviation = np.sqrt(read**2 + shot**2 * np.linspace(0, 1, 256))
    amount = np.rint(deviation / max(deviation.max(), 1e-9) * 255).astype(np.uint8)
    grain = Grain(timeline.rng(), frames.shape[1:], float(deviation.max()))
    for frame, bits in zip(frames, timeline.per_frame(1)[:, 0].tolist(), strict=True):
        weight = cv2.LUT(frame, amount)
        brighter, darker = (cv2.multiply(weight, part, scale=1 / 255) for part in grain.of(bits))
        cv2.add(frame, brighter, dst=frame)
        cv2.subtract(frame, darker, dst=frame)


@corruption("sensor", whole_clip=True, crf=Parameter(lambda x: 18 + 33 * x, 0, 51), bitrate_kbps=Parameter(lambda x: 0, 0, 1e6),
            gop_frames=Parameter(lambda x: 250, 1, 10_000))
def compression(frames: np.ndarray, timeline: Timeline, *, crf: float, bitrate_kbps: float, gop_frames: float) -> None:
    """Real H.264: the clip is encoded and decoded, at a quality `crf` (51 is worst) or, above 0, at `bitrate_kbps`.

    Pixels are those of the x264 that PyAV carries. The codec wants even sides: odd ones are padded and cut again.
    """
    height, width = frames.shape[1:3]
    options = {"preset": "medium", "threads": "1", "g": str(int(gop_frames)), "x264-params": _LIVE}
    if bitrate_kbps <= 0:
        options["crf"] = f"{crf:.2f}"
    even = (cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE) for frame in frames)
    planes = (cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420) for frame in even)  # FFmpeg's own conversion varies in the last bit
    stream = _encode(planes, (height + height % 2, width + width % 2), timeline.fps, options, round(1000 * bitrate_kbps))
    for frame, decoded in zip(frames, _decode(stream), strict=True):
        frame[:] = cv2.cvtColor(decoded, cv2.COLOR_YUV2RGB_I420)[:height, :width]


def _encode(planes: Iterable[np.ndarray], size: tuple[int, int], fps: float, options: dict[str, str], bit_rate: int) -> bytes:
    import av

    memory = io.BytesIO()
    with av.open(memory, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        if bit_rate:
            stream.bit_rate = bit_rate
        for plane in planes:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(plane, format="yuv420p")))
        container.mux(stream.encode(None))
    return memory.getvalue()


def _decode(video: bytes) -> Iterator[np.ndarray]:
    import av

    with av.open(io.BytesIO(video)) as container:
        container.streams.video[0].thread_count = 1
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="yuv420p")
