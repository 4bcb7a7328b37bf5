"""`squall annotate`: what it refuses, what it keeps, and that a run that was killed ends as an undisturbed one."""

from __future__ import annotations

import datetime
import json
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import Command, rows

from squall.jobs import annotate, asking
from squall.jobs.annotate_output import AnnotationFolder, Answered, judge, reasoning_of
from squall.jobs.annotate_plan import AnnotateConfig, Annotation, prepare
from squall.jobs.arguments import load_job_config
from squall.jobs.registry import find_job
from squall.jobs.sft import SFTJobConfig, TargetStream
from squall.platform.config import load_config
from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset
from squall.platform.errors import ConfigError, DataError, SquallError
from squall.platform.manifest import load_manifest, write_manifest
from squall.platform.models import EMBEDDED_POLICY, load_processor
from squall.platform.records import (
    Branch,
    MediaType,
    ProblemType,
    Rollout,
    SampledGroup,
    SamplingSpec,
    ScoredGroup,
    VideoSample,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve training clips; their manifest also names a file that is no video, and one that is not there."""
    folder = tmp_path_factory.mktemp("embedded")
    made = build_dataset(EmbeddedDataConfig(directory=folder, train_clips=12, validation_clips=4, test_clips=4))
    (folder / "text.mp4").write_text("not a video\n" * 50)
    records = rows(made["train"])
    odd = [{**records[0], "problem_id": name, "path": f"./{name}.mp4"} for name in ("text", "absent")]
    nameless = {key: value for key, value in records[1].items() if key != "problem_id"}
    write_manifest(folder / "questions.jsonl", [odd[0], *records[:6], odd[1], *records[6:], nameless])
    return folder


def config(*words: object) -> AnnotateConfig:
    """What the command line makes of its words."""
    return load_job_config(find_job("annotate"), [str(word) for word in words])


def plan(data: Path, *words: object) -> Annotation:
    return prepare(config(data / "questions.jsonl", data / "cot.jsonl", *words))


QUESTION = VideoSample("q", "v.mp4", MediaType.VIDEO, "What?", ProblemType.MULTIPLE_CHOICE, "B", ("A. blue", "B. white"))


def scored(*answers: tuple[str, float]) -> ScoredGroup:
    rollouts = tuple(Rollout("q", "g#0", Branch.CLEAN, "h", i, SamplingSpec(), (1, 2, 3), text, (-1.0,) * 3, 0, "stop")
                     for i, (text, _) in enumerate(answers))
    group = SampledGroup("g", QUESTION, "prompt", None, {Branch.CLEAN: "h"}, rollouts)
    return ScoredGroup(group, tuple({"accuracy": value, "length": 1.0} for _, value in answers))


def said(reasoning: str, answer: str = "B") -> str:
    return f"<think>{reasoning}</think>\n<answer>{answer}</answer>"


@pytest.mark.parametrize(("text", "reasoning"), [
    (said("It is white."), "It is white."),
    (f"\n{said('It is white.')} ", "It is white."),
    (said(""), None),
    (said(" \n "), None),
    (said("x", ""), None),
    ("<answer>B</answer>", None),
    ("B", None),
    ("<think>It is", None),
    (f"Well. {said('x')}", None),
    (said("It is <answer>A</answer>, no."), None),
    (f"<think>{said('x')}", None),
])
def test_reasoning_is_what_stands_alone_in_its_tags(text: str, reasoning: str | None) -> None:
    assert reasoning_of(text) == reasoning


def test_the_best_answer_is_the_best_rewarded_then_the_shortest_then_the_first(data: Path) -> None:
    target = plan(data).targets[0]
    best = judge(target, scored((said("a long way to it"), 1.0), ("B", 1.0), (said("short", "(b)"), 1.0), (said("other"), 1.0),
                                (said("x", "A"), 0.0)), {"accuracy": 1.0, "length": 0.5})
    assert (best.reward, best.reasoning, best.answer) == (1.5, "short", "(b)")
    assert (best.id, best.attempts, best.well_formed, best.tokens) == (target.sample.id, 5, 4, 15)
    none = judge(target, scored(("B", 1.0), (said(""), 1.0)), {"accuracy": 1.0})
    assert (none.reward, none.reasoning, none.well_formed) == (None, "", 0)


def test_questions_are_asked_as_the_small_policy_needs_and_seeds_follow_ids(data: Path) -> None:
    work = plan(data, "engine.count=2")
    plans = [work.plan(target) for target in work.targets]
    assert len(plans) == 14 and [one.reason for one in work.rejected] == ["missing_media"]
    assert (work.sampler.prompt_template, work.sampler.frames.max_frames, work.sampler.model.dtype) == ("compact", 8, "float32")
    assert (work.sampler.engine.count, work.sampler.engine.max_model_len) == (2, 128)
    assert {(p.sampling.temperature, p.sampling.top_p, p.sampling.max_tokens) for p in plans} == {(1.0, 0.95, 32)}
    assert all(dict(p.branches) == {Branch.CLEAN: 4} and p.corruption is None for p in plans)
    assert len({p.sampling.seed for p in plans}) == 14
    again, other = plan(data), plan(data, "seed=1")
    assert [again.plan(target).sampling for target in again.targets] == [p.sampling for p in plans]
    assert other.plan(other.targets[0]).sampling.seed != plans[0].sampling.seed
    corrupted = plan(data, "corruption.kinds={fog: 0.5}", "corruption.severity=[0.3, 0.4]")
    specs = [corrupted.plan(target).corruption for target in corrupted.targets]
    assert {None if spec is None else spec.kind for spec in specs} == {None, "fog"}
    assert dict(corrupted.plan(corrupted.targets[0]).branches) == {Branch.CORRUPTED: 4}
    large = plan(data, "data.prompt_template=video_r1", "max_tokens=512")
    assert large.sampler.engine.max_model_len > 600


def test_media_paths_start_from_the_new_manifest(data: Path, tmp_path: Path) -> None:
    below = prepare(config(data / "questions.jsonl", data.parent / "cot.jsonl"))
    assert below.targets[1].record["path"] == f"./{data.name}/train/000000.mp4"
    with pytest.raises(ConfigError, match=r"media of 14 questions lie outside its folder .* beside MANIFEST: .*/cot\.jsonl"):
        prepare(config(data / "questions.jsonl", tmp_path / "cot.jsonl"))
    absolute = [{**record, "path": str(data / record["path"])} for record in rows(data / "train.jsonl")]
    absolute[1]["path"] = (data / "train/000001.mp4").as_uri()
    write_manifest(tmp_path / "absolute.jsonl", absolute)
    (tmp_path / "elsewhere").mkdir()
    kept = prepare(config(tmp_path / "absolute.jsonl", tmp_path / "elsewhere" / "cot.jsonl")).targets
    assert [target.record["path"] for target in kept] == [record["path"] for record in absolute]


def test_a_record_without_an_id_gets_the_one_that_its_line_had(data: Path) -> None:
    assert plan(data).targets[-1].record["id"] == "questions:15"


@pytest.mark.parametrize(("words", "message"), [
    (["{data}/questions.jsonl"], "OUTPUT is missing; usage: squall annotate MANIFEST OUTPUT"),
    (["{data}/none.jsonl", "{data}/cot.jsonl"], "none.jsonl: no such manifest file"),
    (["{data}/questions.jsonl", "{data}/cot.json"], "use a name that ends in .jsonl"),
    (["{data}/questions.jsonl", "{data}/questions.jsonl"], "is MANIFEST itself; OUTPUT is a new file"),
    (["{data}/questions.jsonl", "{data}/train.jsonl"], "exists already and was not written by squall annotate"),
    (["{data}/questions.jsonl", "{tmp}/folder.jsonl"], "is a folder; OUTPUT is the new manifest"),
    (["{tmp}/unsolved.jsonl", "{tmp}/cot.jsonl"], "unsolved.jsonl: no record has a solution, and answers are judged by it"),
    (["{tmp}/broken.jsonl", "{tmp}/cot.jsonl"], "no clip can be read; the first: {tmp}/text.mp4: sample b: not a readable"),
    (["{data}/questions.jsonl", "{data}/cot.jsonl", "answers=2", "temperature=0"], "2 answers at temperature 0 would all be"),
    (["{data}/questions.jsonl", "{data}/cot.jsonl", "rewards.weights={acuracy: 1}"], "Did you mean 'accuracy'?"),
    (["{data}/questions.jsonl", "{data}/cot.jsonl", "rewards.weights={no_module:f: 1}"], "No module named 'no_module'"),
    (["{data}/questions.jsonl", "{data}/cot.jsonl", "rewards.weights={kl_consistency: 1, accuracy: 1}"],
     "reward 'kl_consistency' compares answers about two clips"),
    (["{data}/questions.jsonl", "{data}/cot.jsonl", "model.path=./nope"], "model.path = ./nope: no such directory"),
    (["{data}/questions.jsonl", "{data}/cot.jsonl", "data.prompt_template=compcat"], "Did you mean 'compact'"),
    (["{data}/questions.jsonl", "{data}/cot.jsonl", "engine.max_model_len=40"], "exceed engine.max_model_len, 40"),
    (["{data}/questions.jsonl", "{data}/cot.jsonl", "corruption.kinds=[fogg]"], "Did you mean 'fog'?"),
])
def test_what_cannot_be_done_is_one_line_before_anything_is_written_or_started(
        words: list[str], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "start_ray", lambda *_: pytest.fail("Ray was started"))
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    record = {**rows(data / "train.jsonl")[0], "problem_id": "b", "path": "text.mp4"}
    write_manifest(tmp_path / "broken.jsonl", [record])
    write_manifest(tmp_path / "unsolved.jsonl", [{key: value for key, value in record.items() if key != "solution"}] * 2)
    before = sorted(path.name for path in [*data.iterdir(), *tmp_path.iterdir()])
    given = [word.replace("{data}", str(data)).replace("{tmp}", str(tmp_path)) for word in words]
    with pytest.raises(SquallError) as raised:
        annotate.run(config(*given))
    assert message.replace("{tmp}", str(tmp_path)) in str(raised.value) and "\n" not in str(raised.value)
    assert sorted(path.name for path in [*data.iterdir(), *tmp_path.iterdir()]) == before


def answer_all(work: Annotation, rewards: list[float | None]) -> None:
    """Leave a folder as a run does that answered the first questions."""
    with AnnotationFolder.open(work) as folder:
        for target, reward in zip(work.targets, rewards, strict=False):
            found = {} if reward is None else {"reward": reward, "reasoning": f"why {target.sample.id}", "answer": "B"}
            folder.record(Answered(target.sample.id, target.fingerprint, 4, 0 if reward is None else 3, 40, **found))


@pytest.fixture
def answered(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A Parquet manifest of three questions, all of them answered, and the new manifest's name. Ray may not be started."""
    monkeypatch.setattr(asking, "start_ray", lambda *_: pytest.fail("Ray was started"))
    absolute = [{**record, "path": str(data / record["path"]), "filmed": datetime.date(2026, 1, 2)}
                for record in rows(data / "train.jsonl")[:3]]
    pq.write_table(pa.Table.from_pylist(absolute), tmp_path / "train.parquet")
    manifest, output = tmp_path / "train.parquet", tmp_path / "cot.jsonl"
    answer_all(prepare(config(manifest, output)), [1.0, 0.5, None])
    return manifest, output


def test_another_threshold_asks_nothing_again_and_the_manifest_follows_it(
        answered: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    manifest, output = answered
    assert annotate.run(config(manifest, output)) == 0
    assert "3 questions asked, 1 kept, 2 not above 0.6 (1 of them without an answer in the format)" in capsys.readouterr().out
    (row,) = rows(output)
    assert (row["process"], row["filmed"]) == ("<think>why train-000000</think>", "2026-01-02")
    assert row["annotation"] == {"model": "@embedded", "reward": 1.0, "answer": "B", "seed": 0, "attempts": 4}
    assert annotate.run(config(manifest, output, "keep_above=0.4")) == 0
    assert [row["problem_id"] for row in rows(output)] == ["train-000000", "train-000001"]
    summary = json.loads((output.parent / "cot.annotate" / "summary.json").read_text())
    assert (summary["asked"], summary["kept"], summary["below"], summary["without_format"], summary["lost"]) == (3, 2, 1, 1, {})


def test_nothing_kept_is_status_1_and_says_why(answered: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    manifest, output = answered
    assert annotate.run(config(manifest, output, "keep_above=1")) == 1
    printed = capsys.readouterr().out
    assert f"nothing was kept and {output} not written: the best reward was 1; " in printed and "keep_above (now 1)" in printed
    assert not output.exists()
    other = output.with_name("other.jsonl")
    answer_all(prepare(config(manifest, other)), [None, None, None])
    assert annotate.run(config(manifest, other)) == 1
    assert "none of 12 answers has reasoning in <think> and an answer in <answer> tags" in capsys.readouterr().out


def test_other_settings_are_refused_and_a_changed_question_is_asked_again(answered: tuple[Path, Path]) -> None:
    manifest, output = answered
    with pytest.raises(ConfigError, match=r"cot\.annotate was begun with max_tokens = 32, and now it is 20; give it as it was"):
        annotate.run(config(manifest, output, "max_tokens=20"))
    with pytest.raises(ConfigError, match="was begun with seed = 0, and now it is 3"):
        annotate.run(config(manifest, output, "seed=3"))
    work = prepare(config(manifest, output, "workers.reward_count=2", "engine.count=2"))
    with AnnotationFolder.open(work) as folder:
        assert len(folder.earlier(work)) == 3
        with pytest.raises(SquallError, match="a live run is writing here"):
            AnnotationFolder.open(work)
    changed = [{**record, "problem": "What else?"} if number == 1 else record
               for number, record in enumerate(pq.read_table(manifest).to_pylist())]
    pq.write_table(pa.Table.from_pylist(changed), manifest)
    work = prepare(config(manifest, output))
    with AnnotationFolder.open(work) as folder:
        assert sorted(folder.earlier(work)) == ["train-000000", "train-000002"]


def test_settings_may_change_while_nothing_is_answered(data: Path) -> None:
    output = data / "fresh.jsonl"
    for words in ((), ("seed=3",)):
        work = prepare(config(data / "questions.jsonl", output, *words))
        AnnotationFolder.open(work).lock.close()
    assert json.loads((data / "fresh.annotate" / "settings.json").read_text())["seed"] == 3


def test_an_interrupted_run_says_how_far_it_is_and_keeps_it(
        data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    output = tmp_path / "cot.jsonl"
    monkeypatch.setattr(asking, "start_ray", interrupted)
    write_manifest(tmp_path / "three.jsonl", [{**record, "path": str(data / record["path"])}
                                              for record in rows(data / "train.jsonl")[:3]])
    answer_all(prepare(config(tmp_path / "three.jsonl", output)), [1.0, 0.5])
    for _ in range(2):  # the second time it goes on where the first one stopped, whose lock is free
        with pytest.raises(KeyboardInterrupt):
            annotate.run(config(tmp_path / "three.jsonl", output))
        said = capsys.readouterr().out
        assert "into " in said and ", 2 are answered" in said
        assert "stopped: 2 of 3 questions are answered; the same command goes on" in said
        assert len(rows(tmp_path / "cot.annotate" / "answered.jsonl")) == 2 and not output.exists()


SLOW = "import time\n\ndef slow(context):\n    time.sleep(0.4)\n    return [0.0] * len(context.group.rollouts)\n"


def start(folder: Path, output: str, *words: str) -> Command:
    return Command(folder, "annotate", "questions.jsonl", output, "answers=2", "engine.cpus=0.5",
                   "rewards.weights={accuracy: 1, slow_rewards:slow: 0}", *words)


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_a_run_that_was_killed_ends_as_an_undisturbed_one_of_more_workers(data: Path, ray_cluster: object) -> None:
    (data / "slow_rewards.py").write_text(SLOW)
    journal, output = data / "cot.annotate" / "answered.jsonl", data / "cot.jsonl"
    one_by_one = "workers.max_groups_in_flight=1"
    whole = start(data, "whole.jsonl", "workers.reward_count=2", "workers.corruption_count=2", "engine.count=2")
    command = start(data, "cot.jsonl", one_by_one)
    assert command.stop_after(journal, 3, signal.SIGKILL) == -signal.SIGKILL, command.printed
    killed = len(rows(journal))
    assert 3 <= killed < 13 and not output.exists()
    command = start(data, "cot.jsonl", one_by_one)
    assert command.wait() == 0 and f"into cot.jsonl, {killed} are answered" in command.printed, command.printed

    answered = rows(journal)
    assert len(answered) == len({row["id"] for row in answered}) == 13  # nothing was asked twice
    lost = {row["id"]: (row["reason"], row["message"]) for row in rows(data / "cot.annotate" / "lost.jsonl")}
    assert {name: reason for name, (reason, _) in lost.items()} == {"text": "decode_error", "absent": "missing_media"}
    assert lost["text"][1].startswith(f"{data / 'text.mp4'}: sample text: not a readable video") and "\n" not in lost["text"][1]
    for text in ("2 questions lost (", "13 questions asked, ", "manifest: cot.jsonl"):
        assert text in command.printed

    assert whole.wait() == 0, whole.printed
    assert output.read_bytes() == (data / "whole.jsonl").read_bytes()
    check_that_it_can_be_trained_on(data, output)


def check_that_it_can_be_trained_on(data: Path, output: Path) -> None:
    made = load_manifest(output)
    before = {sample.id: sample for sample in load_manifest(data / "questions.jsonl", on_error="collect").samples}
    order = [sample.id for sample in made.samples]
    assert order == [name for name in before if name in order] and len(order) >= 7  # the shipped policy is right in .9 of all
    stream = TargetStream(load_config(SFTJobConfig, "@sft", [f"data.train={output}"]), made, str(EMBEDDED_POLICY))
    tokenizer = load_processor(str(EMBEDDED_POLICY)).tokenizer
    for sample in made.samples:
        old, origin = before[sample.id], sample.metadata["annotation"]
        assert (sample.media, sample.problem, sample.solution) == (old.media, old.problem, old.solution)
        assert (origin["reward"], origin["answer"], origin["attempts"]) == (1.0, sample.solution, 2)
        text = tokenizer.decode(stream._target(sample), skip_special_tokens=True)
        assert text == f"<think>{sample.process}</think><answer>{sample.solution}</answer>" and sample.process


def test_a_manifest_whose_every_record_is_bad_is_one_line(data: Path, tmp_path: Path) -> None:
    record = rows(data / "train.jsonl")[0]
    write_manifest(tmp_path / "bad.jsonl", [{**record, "path": str(data / record["path"]), "solution": "B"}] * 2)
    with pytest.raises(DataError, match=r"bad\.jsonl:1: sample train-000000: solution 'B' holds no answer tag .*1 more bad"):
        prepare(config(tmp_path / "bad.jsonl", tmp_path / "cot.jsonl"))
