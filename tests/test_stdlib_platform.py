"""A package called `platform` must not hide the standard library's module from anything in the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_standard_library_platform_wins_with_the_repository_first_on_the_path() -> None:
    code = "import platform; print(platform.system()); import torch; print(torch.__name__)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.stdout.split() == [platform.system(), "torch"], result.stderr
