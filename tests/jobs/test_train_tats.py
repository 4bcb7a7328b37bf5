"""squall train tats: a run that is killed, or stopped, ends with undisturbed figures; what cannot be is refused."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from processes import Command
from small_tats import SETTINGS, TIMED, settings

from squall.algorithms.masked_video.step import JointTraining
from squall.jobs import train_tats, tune
from squall.jobs.registry import find_job
from squall.jobs.search_space import parse_space
from squall.jobs.train_tats_config import TatsConfig, make_arms, marks
from squall.jobs.train_tats_plan import TatsPlan, prepare
from squall.jobs.tune import TuneConfig, check_space
from squall.platform.config import load_config
from squall.platform.errors import ConfigError
from squall.platform.hosting import Host, hosted
from squall.platform.report.tats_masks import read_masks
from squall.platform.tats_card import TATS_CLIPS, TatsMeasure
from squall.platform.tracking import read_metrics


class Heard:
    """Names of the figures that a host hears of."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        self.names |= metrics.keys()

    def close(self) -> None:
        """Nothing is open."""


def undisturbed(plan: TatsPlan, arm: str) -> list[dict[str, float]]:
    """Rows of a training in this process, without Ray."""
    config = plan.config
    chosen = next(each for each in plan.arms if each.name == arm)
    training = JointTraining(chosen.seeded(2), config.steps)
    rows = []
    for mark in marks(config, chosen):
        figures = []
        while training.step < mark:
            figures.append(training.advance(*plan.sources[2].batch(training.step, config.batch_clips, slice(0, 6))))
        names = {name for each in figures for name in each}
        rows.append({"step": mark} | {name: sum(found) / len(found) for name in names
                                      for found in [[each[name] for each in figures if name in each]]})
    return rows


@pytest.mark.cluster
def test_a_kill_changes_nothing(ray_cluster: object, tmp_path: Path) -> None:
    run = tmp_path / "hurt"
    (tmp_path / "tiny.yaml").write_text("job: train tats\n")
    command = Command(tmp_path, "train", "tats", "tiny.yaml", *SETTINGS, f"output={tmp_path}", "name=hurt",
                      "trainings_at_once=1")
    deadline = time.monotonic() + 200
    while not list(run.glob("trainings/tats/seed-2/checkpoints/step-*")):
        assert command.poll() is None and time.monotonic() < deadline, command.printed
        time.sleep(0.02)
    command.signal(signal.SIGKILL)
    assert command.wait(30) == -signal.SIGKILL and not (run / "tats_card.json").exists()
    with pytest.raises(ConfigError, match=r"was begun with other settings \(asked.batch_clips differs\)"):
        train_tats.run(load_config(TatsConfig, run / "config.yaml", ["resume=true", "batch_clips=7"]))
    again = load_config(TatsConfig, run / "config.yaml", ["resume=true", "trainings_at_once=0"])
    heard = Heard()
    with hosted(Host(sinks=(heard,))):
        assert train_tats.run(again) == 0
    assert {"tats.s2/motion/visible", "random.s2/loss", "tats.s2/sampler/clipped"} <= heard.names

    plan = prepare(again)
    for arm in ("random", "tats"):
        rows = read_metrics(run / "trainings" / arm / "seed-2" / "metrics.jsonl")
        expected = undisturbed(plan, arm)
        assert [row["step"] for row in rows] == [row["step"] for row in expected]
        for row, other in zip(rows, expected, strict=True):
            assert {name: value for name, value in row.items() if name not in TIMED} == pytest.approx(other, rel=1e-6)
        assert (run / "models" / arm / "seed-2" / "model.safetensors").is_file()
    assert (run / "models" / "tats" / "seed-2" / "sampler.safetensors").is_file()
    assert not (run / "models" / "random" / "seed-2" / "sampler.safetensors").exists()
    kept(run)


def kept(run: Path) -> None:
    table = pq.read_table(run / "clips.parquet")
    assert table.schema.names == TATS_CLIPS.names and table.num_rows == 16
    assert table["arm"].to_pylist() == ["tats"] * 8 + ["random"] * 8 and set(table["part"].to_pylist()) == {"still", "pan"}
    measures = [TatsMeasure.model_validate_json(line) for line in (run / "measures.jsonl").read_text().splitlines()]
    tats, random = measures
    assert (random.sampler_parameters, random.sampler_updates) == (0, 0) and tats.sampler_parameters > 0
    assert tats.sampler_updates == 2 * ((60 - 3) // 2), "two epochs of every full buffer"
    assert all(each.steps == 60 and each.clips == 360 and each.peak_memory_bytes > 0 for each in measures)
    assert tats.tokens_per_second == pytest.approx(360 * 8 / tats.seconds, rel=0.02)
    assert {example.arm for example in read_masks(run / "masks")} == {"random", "tats"}
    kinds = [json.loads(line)["kind"] for line in (run / "events.jsonl").read_text().splitlines()]
    assert kinds.count("resumed") == 1 and kinds.count("trained") == 2 and kinds[-1] == "finished"


def test_the_plan_says_what_a_run_does_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = settings("plan=true", f"output={tmp_path}", "seeds=[1, 2]", "learner.workers=2", "learner.deepspeed={}")
    assert train_tats.run(config) == 0 and not list(tmp_path.iterdir())
    assert capsys.readouterr().out.splitlines() == [
        "reading the clips",
        "2 arms x 2 seeds, each 60 steps of 6 clips: 15.0 passes over 24 (clips of known motion, train)",
        "autoencoder of 1 block of width 16 with 19,552 parameters, clips of 4 frames of 16x16, tokens of 2x8x8",
        "  tats    trajectory attention of width 12, PPO with a critic, visible tokens are drawn; 3 of 8 tokens visible",
        "  random  by chance; 3 of 8 tokens visible",
        "measured on clips of known motion, test: 4 still, 4 pan; linear probe on 24 clips of 4 classes",
        "2 workers a training, DeepSpeed ZeRO 1; peak memory is that of a worker's process, less what it had before the "
        "networks were made",
        "learner worker: 2 x 0.5 CPUs", "total: 1 CPU"]


def test_without_arms_there_is_one_with_the_samplers_name() -> None:
    config = settings("arms=null", "seeds=[]", "seed=7", "sampler.kind=adamae")
    (arm,) = make_arms(config)
    assert arm.name == "adamae" and config.trained_seeds == (7,) and arm.seeded(7).seed == 7


def test_figures_are_told_where_the_samplers_buffer_is_empty() -> None:
    tats, random = make_arms(settings("steps=20", "log_every_steps=4", "sampler_training.buffer_steps=3"))
    assert marks(settings("steps=20", "log_every_steps=4"), random) == [4, 8, 12, 16, 20]
    assert marks(settings("steps=20", "log_every_steps=4"), tats) == [6, 9, 12, 18, 20]
    assert marks(settings("steps=20", "log_every_steps=50"), tats) == [20]


@pytest.mark.parametrize(("override", "message"), [
    ("arms={tats: {steps: 5}}", "arms.tats: steps is the same for all arms"),
    ("arms={tats: {sampler.kind: tat}}", "arms.tats: 'sampler.kind' = 'tat'"),
    ("arms={tats: {sample.kind: tats}}", "arms.tats: unknown key 'sample'. Did you mean 'sampler'"),
    ("arms={tats: {sampler.credit: {chooses: visible, per: clip, reward: loss}}}", "arms.tats"),
    ("arms={tats: {mask_ratio.ratio: 0.99}}", "leaves no visible token of 8"),
    ("arms={tats: {sampler_training.warmup_steps: 60}}", "are all of steps 60, so that the sampler never learns"),
    ("autoencoder.frames=1", "are smaller than a tubelet"),
    ("seeds=[1, 1]", "seeds: name each once"),
    ("learner.workers=9", "batch_clips 6 does not go round learner.workers 9"),
    ("learner.deepspeed={offload_optimiser: true}", "offload_optimiser needs learner.gpus"),
    ("resume=true", "resume needs the run"),
])
def test_what_cannot_be_is_refused_before_anything_starts(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[").replace("(", r"\(")):
        settings(override)


def test_microbatches_of_workers_that_add_up_gradients_after_each_are_as_many() -> None:
    words = "microbatch_clips=1", "learner={workers: 4, deepspeed: {zero_stage: 2}}"
    with pytest.raises(ConfigError, match="needs a batch_clips that learner.workers 4 divides, got 6"):
        settings(*words)
    with pytest.raises(ConfigError, match="got 6"):
        settings("arms={tats: {microbatch_clips: 1}}", words[1])
    assert settings(*words, "batch_clips=8").learner.workers == 4
    assert settings(words[1]).batch_clips == 6 and settings(words[0], "learner.workers=4").batch_clips == 6


def test_a_sweep_can_search_a_single_training() -> None:
    values = {"job": "train tats", "arms": {}, "steps": 40, "sampler_training": {"warmup_steps": 10},
              "space": {"sampler_training.optimiser.learning_rate": {"loguniform": [1e-4, 1e-2]}},
              "sweep": {"metric": "motion/visible"}, "checkpoint_every_steps": 4}
    config = TuneConfig.model_validate(values)
    with pytest.raises(ConfigError, match="pbt begins trials from checkpoints of others, which squall train tats cannot"):
        tune.run(config.model_copy(update={"sweep": config.sweep.model_copy(update={"scheduler": "pbt"})}))
    job = find_job("train tats")
    demands = check_space(job, config, parse_space(config.searched))
    assert [(demand.role, demand.count) for demand in demands] == [("learner worker", 1)]
    assert job.steps_of(settings("steps=40")) == 40
