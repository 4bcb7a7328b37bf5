"""Lets a CUDA build of torchvision load under a CPU build of torch, in every process of an environment.

PyPI's torchvision is built for CUDA. Under a CPU torch its compiled operators do not load, and ``import torchvision``
stops with ``operator torchvision::nms does not exist``; transformers imports it for every Qwen processor. Declaring the
two schemas that torchvision looks up lets it load without its compiled operators.

`install` copies this file into site-packages with a ``.pth`` line that activates it as an interpreter starts. So at its
top it imports nothing, and no process starts slower for it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing's own would make every process import typing as it starts
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

INSTALLED_NAME = "_squall_torchvision_hook"
SCHEMAS = ("nms", "qnms")
_libraries: list[Any] = []  # torch forgets the schemas when the Library object goes


class SchemaFinder:
    """Import hook: finds torchvision as usual and declares its schemas as it loads, where they are needed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Leave every other module to the finders behind this one."""
        if name != "torchvision":
            return None
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None or spec.origin is None or not is_cuda_build(spec.origin):
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            declare_schemas()
            execute(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def activate() -> None:
    """Put the finder in front. A second call changes nothing."""
    if not any(type(finder).__name__ == SchemaFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, SchemaFinder())  # type: ignore[arg-type]


def is_cuda_build(init_file: str) -> bool:
    """Whether the torchvision package with this ``__init__.py`` was built for CUDA, by its own version file."""
    import os
    import re

    try:
        with open(os.path.join(os.path.dirname(init_file), "version.py"), encoding="utf-8") as file:
            return re.search(r"__version__\s*=\s*['\"][^'\"]*\+cu\d", file.read()) is not None
    except FileNotFoundError:
        return False


def declare_schemas() -> None:
    """Declare torchvision's nms schemas to a CPU torch, unless something did already."""
    import torch

    if torch.version.cuda is not None or hasattr(torch.ops.torchvision, SCHEMAS[0]):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in SCHEMAS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)


def needed() -> bool:
    """Whether this environment pairs a CPU torch with a CUDA torchvision."""
    from importlib.machinery import PathFinder

    import torch

    spec = PathFinder.find_spec("torchvision")
    return torch.version.cuda is None and spec is not None and spec.origin is not None and is_cuda_build(spec.origin)


def hook_files(site_packages: Path) -> dict[Path, str]:
    """The two files of the installed hook and what belongs into them."""
    from pathlib import Path

    return {
        site_packages / f"{INSTALLED_NAME}.py": Path(__file__).read_text(encoding="utf-8"),
        site_packages / f"{INSTALLED_NAME}.pth": f"import {INSTALLED_NAME}; {INSTALLED_NAME}.activate()\n",
    }


def installed(site_packages: Path) -> bool:
    """Whether both files are there with today's content."""
    return all(path.is_file() and path.read_text(encoding="utf-8") == text
               for path, text in hook_files(site_packages).items())


def install(site_packages: Path) -> str:
    """Write, renew or remove the hook's files, as this environment needs. Returns what was done, in one line."""
    files = hook_files(site_packages)
    if not needed():
        present = [path for path in files if path.exists()]
        for path in present:
            path.unlink()
        return f"torchvision hook: not needed{', removed' if present else ''}"
    if installed(site_packages):
        return "torchvision hook: in place already"
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return f"torchvision hook: installed in {site_packages}, because torchvision is a CUDA build and torch is not"


def environment_site_packages() -> Path:
    """The site-packages folder of the running interpreter."""
    import sysconfig
    from pathlib import Path

    return Path(sysconfig.get_path("purelib"))


if __name__ == "__main__":
    print(install(environment_site_packages()))
