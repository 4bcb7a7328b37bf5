"""The most memory that a worker needs: of its GPU where it has one, else of its process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""What `REFERENCES` takes to forget the peak so far (Linux, proc(5))."""


class PeakMemory:
    """What torch has allocated on a GPU at most, or by how much the process was larger at most than when this was made."""

    def __init__(self, device: torch.device) -> None:
        self._cuda, self._begin = device.type == "cuda", _resident("VmRSS")
        self.restart()

    def restart(self) -> None:
        """Forget the peak so far; what is held counts on."""
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            return
        with suppress(OSError):  # where it may not, peaks are those since the process began
            REFERENCES.write_text(RESET_PEAK, encoding="ascii")

    @property
    def bytes(self) -> int:
        """The most since the last `restart`."""
        if self._cuda:
            import torch

            return torch.cuda.max_memory_allocated()
        return max(0, _resident("VmHWM") - self._begin)


def _resident(name: str) -> int:
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10
