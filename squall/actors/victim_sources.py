"""Where a victim's process gets its model from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from squall.platform.classifiers import ClassifierConfig, VideoClassifier, open_classifier, resolve_classifier


class VictimSource(Protocol):
    """A model that any process can open; may be pickled."""

    label: str
    """What errors and reports call it."""
    classes: tuple[str, ...]

    def open(self, device: str) -> VideoClassifier:
        """The model on a torch device. Raises ConfigError where it cannot be opened."""
        ...


@dataclass(frozen=True)
class ClassifierSource:
    """A video classifier of any kind that `open_classifier` knows."""

    path: str
    config: ClassifierConfig
    label: str
    classes: tuple[str, ...]

    @classmethod
    def of(cls, path: str, config: ClassifierConfig | None = None) -> ClassifierSource:
        """Check a model, and name its files so that every process finds them. Errors as of `check_classifier`."""
        resolved_path, resolved = resolve_classifier(path, config or ClassifierConfig())
        assert isinstance(resolved.classes, tuple)
        return cls(resolved_path, resolved, path, resolved.classes)

    def open(self, device: str) -> VideoClassifier:
        """See `VictimSource`."""
        return open_classifier(self.path, self.config, device)
