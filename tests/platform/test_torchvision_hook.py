"""The torchvision hook acts for a CUDA build under a CPU torch and does nothing otherwise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from squall.platform import torchvision_hook

cpu_torch = pytest.mark.skipif(torch.version.cuda is not None, reason="needs a CPU build of torch")

WITHOUT_HOOKS = """
import sys
standard = {"BuiltinImporter", "FrozenImporter", "PathFinder"}
sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") in standard]
"""


def make_torchvision(folder: Path, version: str) -> None:
    """A package that, like torchvision, looks up its operators as it loads."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "version.py").write_text(f"__version__ = '{version}'\n")
    (package / "__init__.py").write_text("import torch\nhas_nms = hasattr(torch.ops.torchvision, 'nms')\n")


def run_python(code: str, folder: Path) -> str:
    setup = f"{WITHOUT_HOOKS}\nsys.path.insert(0, {str(folder)!r})\n"
    result = subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


ACTIVATE = "from squall.platform import torchvision_hook; torchvision_hook.activate(); torchvision_hook.activate()\n"


@cpu_torch
@pytest.mark.parametrize(("version", "activate", "declared"), [
    ("0.28.0+cu130", ACTIVATE, "True"), ("0.28.0+cu130", "", "False"), ("0.28.0+cpu", ACTIVATE, "False"),
    ("0.28.0", ACTIVATE, "False"),
])
def test_schemas_are_declared_for_a_cuda_build_only(tmp_path: Path, version: str, activate: str, declared: str) -> None:
    make_torchvision(tmp_path, version)
    assert run_python(f"{activate}import torchvision; print(torchvision.has_nms)", tmp_path) == declared


@cpu_torch
def test_looking_for_torchvision_does_not_import_torch(tmp_path: Path) -> None:
    make_torchvision(tmp_path, "0.28.0+cu130")
    code = f"{ACTIVATE}import importlib.util\nspec = importlib.util.find_spec('torchvision')\n"
    assert run_python(f"{code}print(spec is not None, 'torch' in sys.modules)", tmp_path) == "True False"


@cpu_torch
def test_schemas_declared_by_another_hook_are_left_alone(tmp_path: Path) -> None:
    make_torchvision(tmp_path, "0.28.0+cu130")
    code = (f"{ACTIVATE}import torch\nlibrary = torch.library.Library('torchvision', 'DEF')\n"
            "library.define('nms(Tensor a, Tensor b, float c) -> Tensor')\n"
            "import torchvision\nprint(torchvision.has_nms)")
    assert run_python(code, tmp_path) == "True"


def test_the_environments_own_torchvision_imports(tmp_path: Path) -> None:
    code = f"{ACTIVATE}import torchvision.transforms.v2 as transforms; print(transforms.Resize.__name__)"
    assert run_python(code, tmp_path) == "Resize"


def test_install_writes_once_and_renews_what_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_hook, "needed", lambda: True)
    assert torchvision_hook.install(tmp_path).startswith(f"torchvision hook: installed in {tmp_path}")
    assert torchvision_hook.install(tmp_path) == "torchvision hook: in place already"
    (tmp_path / "_squall_torchvision_hook.py").write_text("# an older version\n")
    assert not torchvision_hook.installed(tmp_path)
    assert "installed in" in torchvision_hook.install(tmp_path)
    monkeypatch.setattr(torchvision_hook, "needed", lambda: False)
    assert torchvision_hook.install(tmp_path) == "torchvision hook: not needed, removed"
    assert list(tmp_path.iterdir()) == []
    assert torchvision_hook.install(tmp_path) == "torchvision hook: not needed"


def test_the_installed_hook_is_active_from_the_start_and_imports_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_hook, "needed", lambda: True)
    torchvision_hook.install(tmp_path)
    # -S keeps the environment's own .pth files out
    code = (f"import site, sys\nbefore = set(sys.modules)\nsite.addsitedir({str(tmp_path)!r})\n"
            "print(type(sys.meta_path[0]).__name__, *sorted(set(sys.modules) - before))")
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == ["SchemaFinder", "__future__", "_squall_torchvision_hook"], result.stderr
