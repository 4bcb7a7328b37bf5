"""The plan's lines on memory, tokens and time, and a plan that is printed and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from squall.jobs import planning, tgrpo
from squall.jobs.planning import budget_lines
from squall.jobs.tgrpo import TGRPOJobConfig
from squall.platform.config import load_config
from squall.platform.errors import ConfigError
from squall.platform.machine import GIB, Gpu

ROOT = Path(__file__).resolve().parents[2]
EIGHT_GPUS = ("engine.gpus=1", "engine.count=4", "learner.gpus=1", "learner.workers=4", "learner.optimiser.zero_stage=3")


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan as on a machine without GPUs, wherever the tests run."""
    monkeypatch.setattr(planning, "find_gpus", lambda: ())


def lines(*overrides: str, source: str = "@tgrpo") -> list[str]:
    return budget_lines(load_config(TGRPOJobConfig, source, overrides))


def line(start: str, found: list[str]) -> str:
    matching = [text for text in found if text.startswith(start)]
    assert len(matching) == 1, found
    return matching[0]


def test_the_plan_of_the_7b_policy_on_eight_gpus() -> None:
    found = lines(*EIGHT_GPUS)
    learner = line("memory per learner GPU", found)
    assert "weights 3.9 + gradients 3.9 + optimiser 23.2 + reference 3.9 + activations" in learner
    assert learner.endswith(" of 80.0")
    assert "weights 15.4 + activations" in line("memory per engine GPU", found)
    tokens = line("tokens", found)
    assert "clip up to 1,024 + text ~200 + answer up to 768" in tokens
    assert "7,368 with the prompt shared, 15,936 without (2.2x)" in tokens
    assert line("bound by", found).endswith("answers at their longest)")
    assert not any("FIT" in text or "MEND" in text for text in found)


def test_a_plan_that_cannot_fit_says_what_to_change() -> None:
    found = lines(*EIGHT_GPUS, "learner.optimiser.zero_stage=0")
    verdict = line("DOES NOT FIT: a learner GPU", found)
    assert "of 80.0 GiB; enough would be learner.optimiser.zero_stage=3 or" in verdict
    assert not any(text.startswith("bound by") for text in found)
    engine = line("DOES NOT FIT: of 13.6 GiB an engine GPU", lines(*EIGHT_GPUS, "gpu_memory_gib=16"))
    assert "raise engine.tensor_parallel_size" in engine


def test_gpus_that_are_here_count_and_not_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "find_gpus", lambda: (Gpu("NVIDIA H200", 141 * GIB), Gpu("NVIDIA H200", 140 * GIB)))
    found = lines(*EIGHT_GPUS, "gpu_memory_gib=16")
    assert line("memory per learner GPU", found).endswith(" of 140")
    assert "by arithmetic for H200 GPUs" in line("bound by", found)


def test_a_learner_beside_an_engine_has_what_the_engine_leaves() -> None:
    found = lines("engine.gpus=0.5", "learner.gpus=0.5", "engine.weight_transfer=ipc", "engine.gpu_memory_utilization=0.4")
    assert line("memory per learner GPU", found).endswith(" of 48.0 that its engine leaves")
    assert not any(text.startswith("hand-over") for text in found)


def test_what_would_go_wrong_later_is_to_be_mended_now() -> None:
    found = lines("model.path=Qwen/Qwen3-VL-8B-Instruct", "engine.max_model_len=1024")
    assert any("size_multiple is 28 and this model's blocks are 32 pixels" in text for text in found)
    assert any("reach 1,824 tokens and engine.max_model_len is 1,024" in text for text in found)


def test_a_lopsided_division_of_gpus_is_named() -> None:
    found = line("bound by", lines(*EIGHT_GPUS, "engine.count=1", "learner.workers=7", "groups_per_step=28"))
    assert "bound by: rollouts" in found and "; engine.count=" in found
    proposed = found.partition("; engine.count=")[2]
    assert int(proposed[0]) > 1


def test_a_run_without_gpus_gets_host_memory_and_tokens() -> None:
    found = lines(source="@demo")
    # 857,728 parameters of 4 bytes are 3.3 MiB, two moments 6.5
    assert found[0].startswith("memory per learner worker: weights 3.3 + gradients 3.3 + optimiser 6.5 + reference 3.3 + ")
    assert found[1].startswith("tokens: clip up to 16 ") and len(found) == 2


def test_a_policy_of_unknown_shape_has_no_budget() -> None:
    assert lines("model.path=somebody/else") == [
        "budget: the shape of somebody/else is not known here; give a local directory for an estimate"]


def test_a_plan_starts_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(tgrpo, "Session", lambda *_: pytest.fail("a session was made"))
    manifest = tmp_path / "train.jsonl"
    config = load_config(TGRPOJobConfig, "@tgrpo", ["plan=true", f"data.train={manifest}", f"output={tmp_path / 'runs'}"])
    assert tgrpo.run(config) == 0
    printed = capsys.readouterr().out
    assert "total: 26 CPUs + 8 GPUs" in printed and f"data: no manifest at {manifest} yet" in printed
    assert not (tmp_path / "runs").exists()

    (tmp_path / "clip.mp4").touch()
    manifest.write_text('{"problem": "?", "problem_type": "OCR", "data_type": "video", "path": "clip.mp4", '
                        '"solution": "<answer>x</answer>"}\n{}\n')
    assert tgrpo.run(config) == 0
    assert f"data: 1 questions in {manifest}, 1 more records cannot be used" in capsys.readouterr().out


def test_a_plan_refuses_a_model_directory_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="model.path = ./nope: no such directory"):
        tgrpo.run(load_config(TGRPOJobConfig, "@tgrpo", ["plan=true", "model.path=./nope"]))


def test_a_plan_needs_neither_the_hub_nor_the_libraries_that_run_models() -> None:
    code = ("import sys; from squall.cli import main\n"
            "try: main(['train', 'tgrpo', '@tgrpo', '--plan'])\nexcept SystemExit as end: print('status', end.code)\n"
            "print(sorted({'vllm', 'transformers', 'deepspeed'} & set(sys.modules)))")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.endswith("status 0\n[]\n"), result.stdout + result.stderr
