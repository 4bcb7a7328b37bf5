"""Puts tune_configs/ into the wheel as squall/tune_configs; everything else is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # the checkout's own tune_configs/ is found first
            return
        target = Path(self.build_lib, "squall", "tune_configs")
        for config in sorted(Path("tune_configs").rglob("*.yaml")):
            place = target / config.relative_to("tune_configs")
            self.mkpath(str(place.parent))
            self.copy_file(str(config), str(place))


setup(cmdclass={"build_py": BuildWithConfigs})
