"""The keys of the commands that write corrupted files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from squall.platform.config import Config
from squall.platform.video import FrameSampling


class WritingConfig(Config):
    """How files are made, whatever is in them: encoding, workers, going on."""

    command: ClassVar[str]
    """What is typed."""

    frames: FrameSampling | None = None
    """Write the few small frames that a model sees, such as frames.max_frames=16; by default every frame at its own size."""
    crf: int = Field(18, ge=0, le=51)
    """Quality of the H.264 files: 0 is lossless but for colour, 18 looks it, 51 is worst."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"] = "medium"
    """Speed of the encoder; slower ones make smaller files."""
    workers: int | None = Field(None, ge=1)
    """Clips that are worked on at the same time; by default as many as the cluster has CPUs for."""
    threads_per_clip: int = Field(1, ge=1)
    """CPUs of each clip. More make one long film faster; the encoded bytes depend on it, the pixels before encoding do not."""
    held_mib: int = Field(1024, ge=16)
    """Frames of one clip that are held at a time, in MiB, where a corruption needs many at once: compression needs all and
    refuses longer clips, shuffle reads the clip again for every such part. The process takes about three times as much."""
    resume: bool = False
    """Go on where a run into the same folder stopped: what is finished and whole stays."""
    ray_address: str | None = None
    """Cluster to join, which must see the same files; by default RAY_ADDRESS, else a local one on the loopback interface."""

    @property
    def writes_files(self) -> bool:
        """Whether the folder becomes more than a preview."""
        return True


class CorruptKeys(Config):
    """What `squall corrupt` alone is told."""

    source: Path | None = None
    """SRC: a video or image file, a folder (searched to the bottom), or a manifest (.json, .jsonl, .parquet; docs/data.md)."""
    output: Path | None = None
    """OUT: a new folder; for a single file also the name of the new file. Videos become H.264 in .mp4 without sound, and odd
    sides lose a row or column; images become .png."""
    spec: str | None = None
    """One corruption for every clip: a kind, a severity from 0 (nothing) to 1, and values of its own where wanted, such as
    "fog 0.5", "heavy_rain 0.6 wind=4" or, one after the other, "heavy_rain 0.6 + night 0.3". `squall corrupt --list` shows
    all kinds."""
    kinds: tuple[str, ...] = ()
    """A sweep: every clip under each of these kinds, such as [fog, night + light_rain], at each of `severities`. `standard` is
    what training draws from, `all` every kind, module:function one of your own, learned:FOLDER what trained
    attackers choose."""
    severities: tuple[float, ...] = (0.2, 0.5, 0.8)
    """Severities of a sweep."""
    mixture: dict[str, float] | tuple[str, ...] = ()
    """One draw for each clip: kinds with probabilities, such as {fog: 0.3, night: 0.2}, of which what is missing to 1 stays
    clean; or kinds that are equally likely, such as [fog, night]."""
    severity: tuple[float, float] = (0.4, 0.9)
    """Range from which a mixture draws severities."""
    seed: int = Field(0, ge=0)
    """Each clip's corruption follows from this and from its id or path, whatever the number of workers."""
    media_root: Path | None = None
    """Folder that relative paths of a manifest start from; by default the manifest's own."""
    preview: bool = False
    """Also write OUT/preview.png, a contact sheet, and OUT/gallery.html, where short excerpts play, clean and corrupted side by
    side. Without spec, kinds or mixture: these two alone, for the standard kinds."""
    preview_only: bool = False
    """Write the preview without the files."""
    preview_clips: int = Field(3, ge=1)
    """Clips in the preview, taken evenly from all."""
    list: bool = False
    """Print every kind with its parameters, and stop."""
    check: str | None = None
    """Try a kind of your own, module:function, or a known one: what it gets right, what is wrong and what to do; then stop."""

    @field_validator("kinds", "mixture", mode="before")
    @classmethod
    def _as_texts(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("severities", mode="before")
    @classmethod
    def _as_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | float) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.list or self.check is not None:
            return self
        if self.source is None or self.output is None:
            raise ValueError("SRC and OUT are missing: squall corrupt SRC OUT spec=\"fog 0.5\" (see --help and --list)")
        ways = [key for key in ("spec", "kinds", "mixture") if getattr(self, key)]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} are given; give one of spec, kinds, mixture")
        if not ways and not (self.preview or self.preview_only):
            raise ValueError('how to corrupt is missing: give spec="fog 0.5", kinds=standard or mixture="{fog: 0.3}"; '
                             "or --preview to see what there is")
        if not self.severities or not all(0 <= value <= 1 for value in self.severities):
            raise ValueError(f"severities = {list(self.severities)}: expected one or more numbers from 0 to 1")
        if len(set(self.severities)) < len(self.severities):
            raise ValueError(f"severities = {list(self.severities)}: one is there twice")
        return self


class CorruptConfig(WritingConfig, CorruptKeys):  # fields of the last base come first in --help
    """Corrupt files: one spec, a sweep of kinds and severities, or a mixture."""

    command: ClassVar[str] = "squall corrupt"

    @property
    def writes_files(self) -> bool:
        return not self.preview_only and bool(self.spec or self.kinds or self.mixture)
