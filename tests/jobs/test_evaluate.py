"""`squall evaluate`: what is asked and what is refused, and that a run that was killed ends in the same files as another."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from blind_attackers import save_blind_attackers
from processes import Command, rows

from squall.actors.rollout_engine import GenerateRequest
from squall.algorithms.corruption import render_clip
from squall.jobs import asking, evaluate, report
from squall.jobs.arguments import load_job_config
from squall.jobs.evaluate_differences import differing_answers
from squall.jobs.evaluate_output import Journal
from squall.jobs.evaluate_plan import SCORE, EvaluateConfig, Evaluation, prepare
from squall.jobs.evaluate_questions import make_conditions
from squall.jobs.registry import find_job
from squall.platform.attacker_files import attackers_hash
from squall.platform.embedded.build import EmbeddedDataConfig, build_dataset
from squall.platform.errors import ConfigError, DataError, SquallError
from squall.platform.manifest import write_manifest
from squall.platform.models import EMBEDDED_POLICY, load_processor, render_prompt
from squall.platform.prompts import build_messages, prompt_template
from squall.platform.records import Branch, Rollout, SampledGroup, SamplingSpec, ScoredGroup
from squall.platform.report_card import ANSWERS, read_answers, read_card
from squall.platform.video import load_clip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight test clips; their manifest also names a file that is no video, and one that is not there."""
    folder = tmp_path_factory.mktemp("embedded")
    made = build_dataset(EmbeddedDataConfig(directory=folder, train_clips=4, validation_clips=4, test_clips=8))
    (folder / "text.mp4").write_text("not a video\n" * 50)
    records = rows(made["test"])
    odd = [{**records[0], "problem_id": name, "path": f"./{name}.mp4"} for name in ("text", "absent")]
    write_manifest(folder / "questions.jsonl", [odd[0], *records[:4], odd[1], *records[4:]])
    colours = build_dataset(EmbeddedDataConfig(directory=folder / "colours", train_clips=4, validation_clips=4, test_clips=8,
                                               question_types=("colour",)))
    camera = {**next(record for record in records if record["question_type"] == "camera"), "problem_id": "camera"}
    mixed = [{**record, "path": f"./colours/{record['path']}"} for record in rows(colours["test"])]
    write_manifest(folder / "colours.jsonl", [*mixed[:4], camera, *mixed[4:]])
    return folder


def config(*words: object) -> EvaluateConfig:
    """What the command line makes of its words."""
    return load_job_config(find_job("evaluate"), [str(word) for word in words])


def plan(data: Path, *words: object) -> Evaluation:
    return prepare(config(f"manifest={data / 'questions.jsonl'}", "questions=null", *words))


def test_conditions_are_clean_and_every_kind_at_every_severity() -> None:
    conditions = make_conditions(("fog", "night 0.3", "night + light_rain"), (0.5, 0.9))
    assert [condition.name for condition in conditions] == [
        "clean", "fog 0.5", "fog 0.9", "night 0.3", "night + light_rain 0.5", "night + light_rain 0.9"]
    assert [condition.severity for condition in conditions] == [None, 0.5, 0.9, 0.3, 0.5, 0.9]


def test_every_question_is_asked_in_every_condition_with_seeds_of_its_own(data: Path) -> None:
    work = plan(data, "kinds=[fog, night]", "severities=[0.5, 0.9]", "engine.count=2")
    cases = list(work.cases())
    assert len(cases) == work.case_count == 9 * 5 and len({(q, c.name) for q, c in cases}) == 45
    assert [question for question, _ in cases] == sorted(question for question, _ in cases)
    plans = {(question, condition.name): work.plan(question, condition) for question, condition in cases}
    assert dict(plans[0, "clean"].branches) == {Branch.CLEAN: 1} and plans[0, "clean"].corruption is None
    assert dict(plans[0, "fog 0.9"].branches) == {Branch.CORRUPTED: 1}
    asked = ((0, "fog 0.5"), (0, "fog 0.9"), (0, "night 0.5"), (1, "fog 0.5"))
    fog, more, night, other = (plans[case].corruption for case in asked)
    assert fog.seed == more.seed and len({fog.seed, night.seed, other.seed}) == 3
    sampling = {(p.sampling.temperature, p.sampling.top_p, p.sampling.max_tokens) for p in plans.values()}
    assert sampling == {(0.01, 0.001, 32)}  # those of Qwen2.5-VL's demonstration, and short for a small policy
    assert len({p.sampling.seed for p in plans.values()}) == 9
    assert work.sampler.engine.raw_logprobs and work.sampler.engine.count == 2


def test_fewer_conditions_for_each_question_are_drawn_evenly(data: Path) -> None:
    work = plan(data, "kinds=[fog, night, snow]", "severities=[0.5]", "conditions_per_question=1")
    counts = Counter(condition.name for _, condition in work.cases())
    assert counts == {"clean": 9, "fog 0.5": 3, "night 0.5": 3, "snow 0.5": 3} and work.case_count == 18
    assert list(work.cases()) == list(plan(data, "kinds=[fog, night, snow]", "severities=[0.5]",
                                           "conditions_per_question=1").cases())
    three = plan(data, "kinds=[fog, night, snow]", "severities=[0.5]", "conditions_per_question=3")
    assert three.case_count == 36 == len(list(three.cases()))


def test_an_evaluation_says_which_attackers_its_kinds_were(data: Path, tmp_path: Path) -> None:
    folder = save_blind_attackers(tmp_path / "attackers")
    work = plan(data, f"kinds=[fog, 'learned:{folder} + fog']", "severities=[0.5]")
    assert work.asked["attackers"] == {f"learned:{folder} + fog": [attackers_hash(folder)]}
    learned = work.plan(0, work.conditions[2]).corruption
    assert (learned.checkpoint, learned.then[0].kind) == (attackers_hash(folder), "fog")


@pytest.mark.parametrize(("words", "message"), [
    (["kinds=[learned:{tmp}/none]"], "{tmp}/none: no trained attackers here (No such file or directory); give the folder"),
    (["manifest={data}/none.jsonl"], "none.jsonl: no such manifest file"),
    (["manifest={tmp}/empty.jsonl"], "empty.jsonl"),
    (["manifest=[{data}/test.jsonl, {data}/questions.jsonl]"], "two questions have this id; corruptions follow from it"),
    (["manifest={tmp}/broken.jsonl"], "no clip can be read; the first: {tmp}/text.mp4: sample b: not a readable"),
    (["kinds=[fogg]"], "Did you mean 'fog'?"),
    (["severities=[0.5, 1.5]"], "expected different numbers above 0 and up to 1"),
    (['kinds=[fog, "fog 0.5"]', "severities=[0.5]"], "kinds and severities give 'fog 0.5' twice; name it once"),
    (["severities=[]"], "severities is empty; give one or more, or kinds=[]"),
    (["answers=2", "temperature=0"], "2 answers at temperature 0 would all be the same"),
    (["model.path=./nope"], "model.path = ./nope: no such directory"),
    (["engine.max_model_len=40"], "exceed engine.max_model_len, 40"),
    (["--resume"], "resume needs the run"),
    (["name=none", "--resume"], "no run directory of that name to resume"),
])
def test_what_cannot_be_done_is_one_line_before_anything_is_started(
        words: list[str], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "start_ray", lambda *_: pytest.fail("Ray was started"))
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "empty.jsonl").touch()
    write_manifest(tmp_path / "broken.jsonl", [{**rows(data / "test.jsonl")[0], "problem_id": "b", "path": "text.mp4"}])
    given = [word.replace("{data}", str(data)).replace("{tmp}", str(tmp_path)) for word in words]
    with pytest.raises(SquallError) as raised:
        evaluate.run(config(f"manifest={data / 'questions.jsonl'}", f"output={tmp_path / 'runs'}", *given))
    assert message.replace("{tmp}", str(tmp_path)) in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "runs").exists()


def scored(work: Evaluation, question: int, name: str, *texts: str) -> tuple[int, object, ScoredGroup]:
    condition = next(one for one in work.conditions if one.name == name)
    asked = work.plan(question, condition)
    (branch,) = asked.branches
    rollouts = tuple(Rollout(asked.sample.id, "a", branch, "h", i, SamplingSpec(), (5, 6), text, (-0.25, -0.5), 0, "stop")
                     for i, text in enumerate(texts))
    group = SampledGroup(asked.group_id, asked.sample, "p", asked.corruption, {branch: "h"}, rollouts)
    return question, condition, ScoredGroup(group, tuple({SCORE: 1.0} for _ in texts))


def test_a_journal_that_was_cut_short_goes_on_and_forgets_the_broken_line(data: Path, tmp_path: Path) -> None:
    work = plan(data, "kinds=[fog]", "severities=[0.5]")
    path = tmp_path / "answers.jsonl"
    journal = Journal(path)
    for case in ((1, "fog 0.5"), (0, "clean"), (2, "clean")):
        journal.record(*scored(work, *case, f"<answer>{case[0]}</answer>"))
    journal.close()
    path.write_bytes(path.read_bytes()[:-20])
    journal = Journal(path)
    assert journal.done == {(1, "fog 0.5"), (0, "clean")}
    journal.record(*scored(work, 2, "clean", "<answer>again</answer>"))
    found = list(journal.entries([(0, "clean"), (0, "fog 0.5"), (1, "fog 0.5"), (2, "clean")]))
    assert [(entry["question"], entry["answers"][0]["text"]) for entry in found] == [
        (0, "<answer>0</answer>"), (1, "<answer>1</answer>"), (2, "<answer>again</answer>")]
    assert len(rows(path)) == 3


SLOW = """
import time

def slow(frames, timeline, *, severity):
    time.sleep(0.3)
    frames[:] = frames // 2
"""


NIGHT = ("severities=[0.5, 0.9]", "engine.cpus=0.5")


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_run_that_was_stopped_and_killed_ends_in_the_files_of_an_undisturbed_one(
        data: Path, colours: Path, ray_cluster: object, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(data)
    monkeypatch.syspath_prepend(data)
    (data / "slow_kinds.py").write_text(SLOW)
    run = data / "runs" / "stopped"
    journal = run / "answers.jsonl"
    words = ("manifest=colours.jsonl", "kinds=[slow_kinds:slow, night]", f"model.path={colours}", *NIGHT)
    one_by_one = "workers.max_groups_in_flight=1"  # in a batch with others the last digit of a probability may differ
    more = ("workers.reward_count=2", "workers.corruption_count=2", "engine.count=2")
    undisturbed = Command(data, "evaluate", *words, "name=whole", one_by_one, *more)
    stopped = Command(data, "evaluate", *words, "name=stopped", one_by_one)
    assert stopped.stop_after(journal, 3, signal.SIGINT) == 130
    assert "of 45 answers are in; go on with: squall evaluate runs/stopped/config.yaml --resume" in stopped.printed
    answered = len(rows(journal))
    killed = Command(data, "evaluate", "runs/stopped/config.yaml", "--resume")
    assert killed.stop_after(journal, answered + 3, signal.SIGKILL) == -signal.SIGKILL, killed.printed
    there = len(rows(journal))
    assert answered + 3 <= there < 40 and not (run / "card.json").exists()

    with pytest.raises(ConfigError, match=r"was begun with other settings \(asked\.seed differs\)"):
        evaluate.run(config(run / "config.yaml", "seed=1", "--resume"))
    ended = Command(data, "evaluate", "runs/stopped/config.yaml", "--resume")
    assert ended.wait() == 0 and f"{there} answers are there" in ended.printed, ended.printed
    assert "5 answers lost (5 unknown_class)" in ended.printed
    assert len(rows(journal)) == 40  # nothing was asked twice, and of the camera question there are none

    whole = data / "runs" / "whole"
    assert undisturbed.wait() == 0, undisturbed.printed
    assert pq.read_table(run / "answers.parquet").equals(pq.read_table(whole / "answers.parquet"))
    first, second = read_card(run), read_card(whole)
    assert first.model_copy(update={"name": "whole"}) == second
    assert (first.model["kind"], len(first.model["classes"]), first.summary.top5_clean.n) == ("classifier", 6, 8)
    before = (run / "card.json").read_bytes(), (run / "answers.parquet").read_bytes()
    assert report.run(report.ReportConfig(runs=(run,))) == 0
    assert before == ((run / "card.json").read_bytes(), (run / "answers.parquet").read_bytes())
    assert report.run(report.ReportConfig(runs=(run, whole))) == 0
    assert "whole against stopped: clean" in capsys.readouterr().out
    assert (data / "runs" / "comparison.html").stat().st_size > 10_000


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_one_engine_and_two_give_the_same_greedy_answers(
        data: Path, engine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(data)
    asked = config("manifest=questions.jsonl", "kinds=[night]", "temperature=0", *NIGHT, "name=two", "engine.count=2")
    assert evaluate.run(asked) == 0
    run = data / "runs" / "two"
    table = pq.read_table(run / "answers.parquet")
    differing = differing_answers(ask_alone(engine, prepare(asked), table), table)
    assert all(one.lead < 1e-3 for one in differing), differing  # only what rounding may turn
    check_card(run, capsys.readouterr().out)


def ask_alone(engine: Any, work: Evaluation, table: pa.Table) -> pa.Table:
    """Rows with the answers of one engine, which is asked without a job."""
    conditions = {condition.name: condition for condition in work.conditions}
    processor, template = load_processor(str(EMBEDDED_POLICY)), prompt_template(work.sampler.prompt_template)
    answered, calls = table.to_pylist(), []
    for row in answered:
        plan = work.plan(row["question"], conditions[row["condition"]])
        clip = load_clip(plan.sample.media, work.sampler.frames, sample_id=plan.sample.id)
        shown = clip if plan.corruption is None else render_clip(clip, plan.corruption)
        assert shown.content_hash == row["clip_hash"]
        ((branch, count),) = plan.branches.items()
        prompt = render_prompt(processor, build_messages(plan.sample, template))
        calls.append(engine.generate.remote(
            GenerateRequest(prompt, plan.sample.id, plan.group_id, branch, count, plan.sampling), shown))
    for row, (answer,) in zip(answered, ray.get(calls, timeout=120), strict=True):
        row.update(text=answer.text, token_ids=answer.token_ids, logprobs=answer.logprobs)
    return pa.Table.from_pylist(answered, table.schema)


def check_card(run: Path, printed: str) -> None:
    card = read_card(run)
    assert (card.data["questions"], card.data["videos"], card.data["rejected"]) == (9, 9, {"missing_media": 1})
    assert Counter((loss.sample_id, loss.reason) for loss in card.lost) == {("text", "decode_error"): 3}
    assert "3 answers lost (3 decode_error)" in printed
    assert [result.condition for result in card.conditions] == ["clean", "night 0.5", "night 0.9"]
    clean = [row for row in pq.read_table(run / "answers.parquet").to_pylist() if row["condition"] == "clean"]
    assert len(clean) == 8 and card.summary.clean.value == pytest.approx(sum(row["score"] for row in clean) / 8, abs=1e-6)
    assert all(0 < row["confidence"] <= 1 for row in clean) and len({row["confidence"] for row in clean}) > 1
    assert (run / "report.html").stat().st_size > 10_000


def test_a_training_run_and_an_evaluation_do_not_share_a_page(tmp_path: Path) -> None:
    for name, file in (("evaluated", "answers.jsonl"), ("trained", "metrics.jsonl")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    with pytest.raises(DataError, match="trained: no evaluation, and what stands side by side"):
        report.run(report.ReportConfig(runs=(tmp_path / "evaluated", tmp_path / "trained")))
    with pytest.raises(DataError, match="no card.json; an evaluation writes it when all its questions are asked"):
        report.run(report.ReportConfig(runs=(tmp_path / "evaluated",)))


def test_answers_that_are_damaged_or_of_another_version_say_how_to_write_them_again(tmp_path: Path) -> None:
    (tmp_path / "answers.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"answers\.parquet: cannot be read .*config\.yaml --resume` writes it again"):
        read_answers(tmp_path)
    pq.write_table(ANSWERS.empty_table().drop_columns(["file"]), tmp_path / "answers.parquet")
    with pytest.raises(DataError, match="has no column file, so another version of Squall wrote it"):
        read_answers(tmp_path)
