"""Clips that an importer has to write: a span of a video, or a folder of numbered images.

A manifest has no time spans: whatever reads a clip (corruption, previews, replay, a benchmark that is built from it) would have
to honour them, and one that forgot would show another video without a word. So the clip is cut once, as H.264 at CRF 18, as
MVBench's authors did for their branch of ready clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from squall.platform.decoding import fail, read_image
from squall.platform.importers.common import Cut
from squall.platform.streaming import Chunk, VideoFile, crop_to_even, write_video


def write_clip(cut: Cut, target: Path, sample_id: str) -> None:
    """Write the clip, frames at their own times from 0 on. One that is there and not older than its source is kept.

    Raises:
        DataError: ``decode_error``, ``encode_error``, or ``empty_span`` where no frame lies in the span.
    """
    if target.is_file() and target.stat().st_mtime >= cut.source.stat().st_mtime:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    video = None if cut.fps else VideoFile(cut.source, sample_id=sample_id)
    fps, chunks = (video.fps, video.chunks()) if video else (cut.fps, _images(cut.source, cut.fps, sample_id))
    with write_video(target, fps) as writer:
        begin = None
        for chunk in chunks:
            kept = (chunk.times >= cut.span_s[0]) & (chunk.times <= cut.span_s[1])
            if kept.any():
                begin = chunk.times[kept][0] if begin is None else begin
                writer.write(Chunk(chunk.frames[kept], chunk.times[kept] - begin))
            if chunk.times[-1] > cut.span_s[1]:
                break
        if begin is None:
            fail(cut.source, sample_id, "empty_span", f"no frame between {cut.span_s[0]:g} and {cut.span_s[1]:g} s")


def _images(folder: Path, fps: float, sample_id: str) -> Iterator[Chunk]:
    """The images in the order of their names; the first one is shown at 1 / fps, as MVBench's own reader counts."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not files:
        fail(folder, sample_id, "missing_media", "no image in the folder; unpack its archive")
    shape = None
    for number, file in enumerate(files, start=1):
        frame = crop_to_even(read_image(file, sample_id))
        if shape not in (None, frame.shape):
            fail(file, sample_id, "decode_error", f"{frame.shape[1]}x{frame.shape[0]}, images before are {shape[1]}x{shape[0]}")
        shape = frame.shape
        yield Chunk(frame[None], np.array([number / fps]))
