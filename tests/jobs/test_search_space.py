"""The space of a sweep: what is understood, what is refused, and that every key is checked before anything runs."""

from __future__ import annotations

import pytest

from squall.jobs.arguments import load_job_config
from squall.jobs.registry import find_job
from squall.jobs.search_space import as_grid, examples, parse_space, size_of_grid
from squall.jobs.tune import TuneConfig, check_space, run, with_values
from squall.platform.config import load_config, packaged_configs, read_yaml
from squall.platform.errors import ConfigError


def test_domains_have_ends_and_lists_are_choices() -> None:
    space = parse_space({"a": {"loguniform": [1e-6, 1e-4]}, "b": [1, 2, 3], "c": {"randint": [2, 9]},
                         "d": {"grid_search": ["x", "y"]}})
    assert [examples(domain) for domain in space.values()] == [[1e-6, 1e-4], [1, 2, 3], [2, 8], ["x", "y"]]
    assert size_of_grid(space) is None and size_of_grid({key: space[key] for key in "bd"}) == 6
    assert as_grid({"b": space["b"]}) == {"b": {"grid_search": [1, 2, 3]}}


@pytest.mark.parametrize(("space", "message"), [
    ({}, "names no key to search"),
    ({"a": 3}, "space: 'a' = 3: expected a list, or one of uniform"),
    ({"a": {"loguniform": [1e-6]}}, "space: 'a': loguniform takes 2 numbers, got"),
    ({"a": {"loguniform": [0.0, 1.0]}}, "needs a lower bound below the upper one and above 0"),
    ({"a": {"uniform": [2.0, 1.0]}}, "needs a lower bound below the upper one, got"),
    ({"a": {"loguinform": [1.0, 2.0]}}, "unknown domain 'loguinform'. Did you mean 'loguniform'"),
    ({"a": {"choice": []}}, "choice takes a list of values"),
    ({"tgrpo": {"kl_beta": [0.1]}}, "unknown domain 'kl_beta'.*a key below another is written with a dot: 'tgrpo.kl_beta'"),
])
def test_what_is_no_space_is_one_line(space: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_space(space)


def test_a_grid_takes_no_range() -> None:
    with pytest.raises(ConfigError, match="'a' is a range, and sweep.search grid takes lists alone"):
        as_grid(parse_space({"a": {"uniform": [0.0, 1.0]}}))


@pytest.mark.parametrize(("space", "message"), [
    ({"learner.optimiser.learning_rat": [1e-3]}, "unknown key 'learner.optimiser.learning_rat'. Did you mean 'learning_rate'"),
    ({"tgrpo.kl_beta": {"uniform": [-1.0, 1.0]}}, "space: tgrpo.kl_beta: 'tgrpo.kl_beta' = -1.0"),
    ({"name": ["a", "b"]}, "'name' is the sweep's own"),
])
def test_every_key_is_checked_at_its_ends(space: dict, message: str) -> None:
    config = load_config(TuneConfig, "@tgrpo-sweep").model_copy(update={"space": space})
    with pytest.raises(ConfigError, match=message):
        check_space(find_job("train tgrpo"), config, parse_space(space))


@pytest.mark.parametrize(("words", "message"), [
    (["sweep.search=optuna"], "sweep.search optuna does not go with sweep.scheduler pbt"),
    (["checkpoint_every_steps=4"], "copies checkpoints every sweep.grace_steps 6: set the job's checkpoint_every_steps"),
])
def test_what_pbt_cannot_do_is_refused_before_anything_starts(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(load_config(TuneConfig, "@tgrpo-sweep", ["sweep.scheduler=pbt", *words]))


@pytest.mark.parametrize(("words", "message"), [
    (["sweep.search=grid"], "'learner.optimiser.learning_rate' is a range, and sweep.search grid takes lists alone"),
    (["sweep.search=optuna", "space={tgrpo.kl_beta: {grid_search: [0.0, 0.1]}}"], "'tgrpo.kl_beta' is a grid_search, of which"),
    (["evaluation.manifest=null"], "sweep.metric heldout/corrupted needs held-out questions: set evaluation.manifest"),
])
def test_what_a_search_cannot_do_is_refused_before_anything_starts(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(load_config(TuneConfig, "@tgrpo-sweep", words))


@pytest.mark.parametrize("name", packaged_configs())
def test_every_packaged_configuration_suits_the_job_that_it_names(name: str) -> None:
    values = read_yaml(name)
    job = find_job(values["job"])
    if "space" in values or "rows" in values:
        config = load_config(TuneConfig, name)
        assert check_space(job, config, parse_space(config.searched))
    else:
        assert isinstance(load_job_config(job, [name]), job.load()[0])


def test_a_sweep_lies_over_its_base_and_a_trial_over_both() -> None:
    config = load_config(TuneConfig, "@tgrpo-sweep", ["learner.optimiser.warmup_steps=3"])
    values = config.values
    assert values["evaluation"]["questions"] == 400 and values["evaluation"]["severity"] == 0.7
    assert values["learner"]["optimiser"] == {"learning_rate": 4e-5, "zero_stage": 0, "warmup_steps": 3}
    trial = with_values(values, {"learner.optimiser.learning_rate": 1e-5, "tgrpo.kl_beta": 0.04, "model.path": "a: b"})
    assert trial["learner"]["optimiser"]["learning_rate"] == 1e-5 and trial["tgrpo"]["kl_beta"] == 0.04
    assert trial["model"]["path"] == "a: b" and values["tgrpo"]["kl_beta"] == 0.1
    demands = check_space(find_job("train tgrpo"), config, parse_space(config.space))
    assert [demand.role for demand in demands] == ["engine", "corruption worker", "reward worker", "learner worker"]


@pytest.mark.parametrize(("overrides", "message"), [
    (["job=ask"], "'squall ask' cannot be swept"),
    (["job=train tgrp"], "is no job. Did you mean 'train tgrpo'"),
])
def test_a_job_that_cannot_be_swept_is_refused(overrides: list[str], message: str) -> None:
    from squall.jobs import tune

    with pytest.raises(ConfigError, match=message):
        tune.run(load_config(TuneConfig, "@tgrpo-sweep", [*overrides, "base=null"]))
