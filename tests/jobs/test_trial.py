"""`squall trial`: what is refused before anything starts, and a small trial from its trainings to its page."""

from __future__ import annotations

from pathlib import Path

import pytest

from squall.jobs import report, trial
from squall.jobs.arguments import load_job_config
from squall.jobs.attack_report import read_attack_card
from squall.jobs.registry import find_job
from squall.jobs.trial_plan import describe_arm, prepare
from squall.platform.errors import ConfigError, SquallError
from squall.platform.runs import read_lines

SMALL = ["training={passes: 6}", "arms={SL: {}, RL: {objective: {kind: pg}}}", "contrasts=[[SL, RL]]", "seeds=[1, 2]",
         "attack={epsilons: [0.1], attacks: [{kind: pgd, steps: 5}, {kind: square, queries: 50}], images: 40, chunk: 20, "
         "diagnosis: {images: 10, landscape: {points_per_side: 3}}}"]


def config(*words: object) -> trial.TrialConfig:
    return load_job_config(find_job("trial"), [str(word) for word in words])


@pytest.mark.parametrize(("words", "message"), [
    (["arms={}"], "arms"),
    (["arms={RL: {objektive: {kind: pg}}}", "contrasts=[]"], "arms: RL: unknown key 'objektive'. Did you mean 'objective'?"),
    (["arms={SL: {}, plain: {}}", "contrasts=[]"], "'SL' and 'plain' are the same; leave one out"),
    (["arms={SL: {seed: 3}}", "contrasts=[]"], "seeds are those of the trial"),
    (["contrasts=[[SL, RLL]]"], "there is no arm 'RLL'"),
    (["seeds=[1, 1]"], "name each once"),
    (["attack={epsilons: [0.1], attacks: [pdg]}"], "Did you mean 'pgd'"),
    (["attack={epsilons: [0.1], models: [a]}"], "attack.models is what the trial decides by itself"),
    (["attack={epsilon: [0.1]}"], "epsilon"),
    (["--resume"], "resume needs the run"),
])
def test_what_cannot_be_tried_is_one_line_before_anything_starts(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        trial.run(config(f"output={tmp_path / 'runs'}", *SMALL, *words))
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "runs").exists()


def test_every_arm_of_the_packaged_trial_costs_the_same_and_says_how_it_learns() -> None:
    work = prepare(config())
    images = round(len(work.train) * 0.9)
    spent = {}
    for name, fit in work.fits.items():
        steps = fit.total_steps(images)
        spent[name] = sum(fit.passes_at(step / steps) for step in range(steps)) * fit.batch_size
    assert max(spent.values()) <= 40 * images and min(spent.values()) > 0.98 * 40 * images
    assert describe_arm(work.fits["RL-adv"]) == "pg; fgsm (start 0.5) at linf 0.1"


@pytest.mark.cluster
def test_a_small_trial_from_its_trainings_to_its_page(ray_cluster: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                                      ) -> None:
    words = [f"output={tmp_path}", "name=small", *SMALL]
    assert trial.run(config(*words)) == 0
    run, printed = tmp_path / "small", capsys.readouterr().out
    card = read_attack_card(run)
    assert [(model.arm, model.seed) for model in card.models] == [("SL", 1), ("RL", 1), ("SL", 2), ("RL", 2)]
    assert [arm.name for arm in card.arms] == ["SL", "RL"] and "claims nothing about arms" in " ".join(card.notes)
    sl = {(one.figure, one.epsilon): one for one in card.arms[0].figures}
    own = [model for model in card.models if model.arm == "SL"]
    assert sl["clean", None].seeds == pytest.approx([model.clean.value for model in own], abs=1e-6)
    assert sl["worst", 0.1].seeds == pytest.approx([model.budgets[0].robust_accuracy.value for model in own], abs=1e-6)
    assert sl["clean", None].mean > 0.5 > sl["worst", 0.1].mean
    assert all(model.indicators.agn > 0 and model.checks and (run / model.landscape).is_file() for model in card.models)
    assert {one.figure for one in card.contrasts} >= {"clean", "pgd", "square", "worst"}
    assert "accuracy in percent, mean over seeds" in printed and "SL" in (run / "report.html").read_text()

    before = (run / "attacks.parquet").read_bytes()
    with pytest.raises(ConfigError, match="was begun with other arms"):
        trial.run(config(run / "config.yaml", "training.passes=7", "--resume"))
    (run / "models" / "RL.s2" / "classifier.json").unlink()
    assert trial.run(config(run / "config.yaml", "--resume")) == 0
    trained = [event["model"] for event in read_lines(run / "events.jsonl") if event["kind"] == "trained"]
    assert sorted(trained[:4]) == ["RL.s1", "RL.s2", "SL.s1", "SL.s2"] and trained[4:] == ["RL.s2"], "the others were kept"
    assert (run / "attacks.parquet").read_bytes() == before, "same seed, same model"
    again = read_attack_card(run)
    assert [arm.figures for arm in again.arms] == [arm.figures for arm in card.arms] and again.contrasts == card.contrasts
    capsys.readouterr()
    assert report.run(report.ReportConfig(runs=(run,))) == 0
    assert read_attack_card(run) == again and "mean over seeds" in capsys.readouterr().out


@pytest.mark.cluster
def test_a_training_that_fails_is_named_and_the_others_are_kept(ray_cluster: object, tmp_path: Path) -> None:
    words = [f"output={tmp_path}", "name=fails", *SMALL, "seeds=[1]",
             "arms={SL: {}, burst: {optimiser: {learning_rate: 1.0e+30, max_grad_norm: 1.0e+30}}}", "contrasts=[]"]
    with pytest.raises(SquallError, match=r"1 training of 2 failed, the first: burst\.s1: .*the loss is nan.*--resume"):
        trial.run(config(*words))
    assert (tmp_path / "fails" / "models" / "SL.s1" / "classifier.json").is_file()
