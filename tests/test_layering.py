"""Who may import whom: the contracts of pyproject.toml hold, and they would notice a breach."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True)


def test_imports_keep_to_the_layers() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


def test_a_breach_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    package = tmp_path / "squall"
    for room in ("cli", "jobs", "actors", "algorithms", "platform"):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").touch()
    (package / "__init__.py").touch()
    assert lint_imports(tmp_path).returncode == 0
    (package / "algorithms" / "method.py").write_text("def f():\n    import ray\n")
    (package / "actors" / "worker.py").write_text("import squall.jobs\n")
    (package / "jobs" / "train.py").write_text("import vllm\n")
    report = lint_imports(tmp_path).stdout
    assert "Contracts: 0 kept, 3 broken." in report
    assert "squall.algorithms.method -> ray (l.2)" in report
