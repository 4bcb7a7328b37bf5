"""Configuration: where values come from, and what each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import Field, ValidationError

from squall.jobs.tgrpo import TGRPOJobConfig
from squall.platform.config import Config, dump_yaml, load_config, packaged_configs
from squall.platform.config_help import describe_keys
from squall.platform.errors import ConfigError
from squall.platform.records import MediaType


class OptimiserConfig(Config):
    learning_rate: float = Field(1e-3, gt=0)
    """Peak rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the moments."""


class JobConfig(Config):
    steps: int = Field(10, ge=1)
    """Updates."""
    output: Path = Path("runs")
    """Folder."""
    name: str | None = None
    """Name of the run."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Optimiser."""
    anchor: OptimiserConfig | None = None
    """A second optimiser."""


class ModelConfig(Config):
    path: str
    """Which policy."""


def message_of(source: str | Path | None, *overrides: str, model: type[Config] = JobConfig) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(model, source, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("steps: 3\noptimiser: {learning_rate: 0.1}\n")
    config = load_config(JobConfig, file, ["optimiser.learning_rate=0.2", "anchor.betas=[0.5, 0.6]", "name=a=b"])
    assert (config.steps, config.optimiser.learning_rate, config.name) == (3, 0.2, "a=b")
    assert config.optimiser.betas == (0.9, 0.95)
    assert config.anchor is not None and config.anchor.betas == (0.5, 0.6)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("# nothing yet\n")
    assert load_config(JobConfig, file) == JobConfig()


def test_dumped_yaml_loads_to_the_same_configuration(tmp_path: Path) -> None:
    config = load_config(JobConfig, None, ["steps=7", "optimiser.betas=[0.1, 0.2]"])
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(config))
    assert load_config(JobConfig, file) == config


def test_configurations_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        JobConfig().steps = 2  # type: ignore[misc]


def test_unknown_key_names_the_nearest_and_the_allowed() -> None:
    assert message_of(None, "setps=3") == (
        "defaults: unknown key 'setps'. Did you mean 'steps'? Allowed here: steps, output, name, optimiser, anchor")


@pytest.mark.parametrize("section", ["optimiser", "anchor"])
def test_unknown_key_in_a_section(section: str) -> None:
    assert message_of(None, f"{section}.learning_rat=1") == (
        f"defaults: unknown key '{section}.learning_rat'. Did you mean 'learning_rate'? "
        "Allowed here: learning_rate, betas")


def test_bad_value_names_key_value_and_bound(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("steps: 0\n")
    assert message_of(file) == f"{file}: 'steps' = 0: Input should be greater than or equal to 1"


def test_further_problems_are_counted() -> None:
    assert message_of(None, "steps=x", "optimiser.learning_rate=-1", "nmae=3").endswith("(2 more problems)")


def test_missing_key() -> None:
    assert message_of(None, model=ModelConfig) == "defaults: missing key 'path'"


def test_missing_file() -> None:
    assert message_of("nowhere/job.yaml").startswith("nowhere/job.yaml: no such configuration file. Packaged ones: @")


def test_unknown_packaged_name_suggests_the_nearest() -> None:
    message = message_of("@tgrop")
    assert message.startswith("@tgrop: no packaged configuration of that name. Did you mean '@tgrpo'? Available: ")
    assert {"@demo", "@sft", "@tgrpo"} <= set(packaged_configs())


def test_bad_yaml_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("steps: 3\noptimiser: {learning_rate: 0.1\n")
    message = message_of(file)
    assert message.startswith(f"{file}: not valid YAML: ")
    assert "line 3, column 1" in message


@pytest.mark.parametrize(("content", "expected"), [
    (b"- 1\n- 2\n", "expected a mapping of keys to values at the top, got list"),
    (b"name: \xff\xfe\n", "not UTF-8 text"),
])
def test_files_that_are_no_mapping(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(content)
    assert expected in message_of(file)


@pytest.mark.parametrize(("override", "expected"), [
    ("steps", "override 'steps': expected key.sub=value"),
    ("=3", "override '=3': expected key.sub=value"),
])
def test_overrides_of_another_form(override: str, expected: str) -> None:
    assert message_of(None, override) == expected


def test_override_below_a_value() -> None:
    message = message_of(None, "steps=3", "steps.more=1")
    assert message == "override 'steps.more=1': 'steps' holds a value, not a section"


def test_every_packaged_file_is_a_mapping() -> None:
    folder = Path(__file__).resolve().parents[2] / "tune_configs"
    assert all(isinstance(yaml.safe_load(path.read_text()), dict) for path in folder.glob("*.yaml"))


def test_described_keys() -> None:
    lines = describe_keys(JobConfig).splitlines()
    assert "  steps: int = 10  (>= 1)" in lines
    assert "  name: str | null = null" in lines
    assert "  anchor: section | null = null" in lines
    assert "  anchor.learning_rate: float = 0.001  (> 0)" in lines
    betas = lines.index("  optimiser.betas: tuple[float, float] = [0.9, 0.95]")
    assert lines[betas + 1] == "      Decay of the moments."
    assert "  path: str (required)" in describe_keys(ModelConfig)


def test_described_choices() -> None:
    class Choice(Config):
        media: MediaType | None = None

    assert describe_keys(Choice) == "  media: video | image | null = null"


def test_off_is_a_word_and_true_a_switch(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: off\n")
    assert load_config(JobConfig, file).name == "off"
    assert load_config(JobConfig, None, ["name=no"]).name == "no"
    assert load_config(JobConfig, None, ["name='true'"]).name == "true"


def test_a_file_that_names_its_job_is_refused_by_another() -> None:
    assert load_config(TGRPOJobConfig, "@demo", job="train tgrpo").steps == load_config(TGRPOJobConfig, "@demo").steps
    with pytest.raises(ConfigError, match="@demo is a configuration of 'squall train tgrpo', not of 'squall train sft'"):
        load_config(TGRPOJobConfig, "@demo", job="train sft")


def test_a_file_lies_over_its_base_and_overrides_over_both(tmp_path) -> None:
    (tmp_path / "low.yaml").write_text("job: train tgrpo\nbase: '@demo'\nsteps: 3\ntgrpo: {kl_beta: 0.5}\n")
    (tmp_path / "high.yaml").write_text(f"base: {tmp_path / 'low.yaml'}\ntgrpo: {{clean_samples: 7}}\n")
    config = load_config(TGRPOJobConfig, tmp_path / "high.yaml", ["steps=2"], job="train tgrpo")
    assert (config.steps, config.tgrpo.kl_beta, config.tgrpo.clean_samples) == (2, 0.5, 7)
    assert config.tgrpo.optimise == "both", "of @demo"


def test_a_base_that_cannot_be_is_refused(tmp_path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(f"base: {second}\n")
    second.write_text(f"base: {first}\n")
    with pytest.raises(ConfigError, match="base goes round in a circle: .*b.yaml -> .*a.yaml -> .*b.yaml"):
        load_config(TGRPOJobConfig, first)
    first.write_text("job: train tgrpo\nbase: '@sft'\n")
    with pytest.raises(ConfigError, match="base @sft is a configuration of 'squall train sft', not of 'squall train tgrpo'"):
        load_config(TGRPOJobConfig, first)
    first.write_text("base: '@dem'\n")
    with pytest.raises(ConfigError, match="@dem: no packaged configuration of that name. Did you mean '@demo'"):
        load_config(TGRPOJobConfig, first)
