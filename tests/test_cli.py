"""The command line: what it prints, how it fails, and that it starts fast."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import squall
from squall import cli
from squall.jobs import arguments
from squall.jobs.registry import JOBS, Job, find_job, suggest
from squall.platform.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
JOB_MODULE = '''
from squall.platform.config import Config
from squall.platform.errors import DataError

class EchoConfig(Config):
    """Settings."""
    text: str = "nothing"
    """What to print."""
    times: int = 1
    """How often."""
    fail_now: bool = False
    """Stop with an error."""
    interrupt: bool = False
    """Act as if Ctrl-C was pressed."""

def run(config):
    if config.fail_now:
        raise DataError("clips/1.mp4:\\n  broken")
    if config.interrupt:
        raise KeyboardInterrupt
    print(config.text * config.times)
    return config.times
'''


@pytest.fixture
def run_echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `squall say echo ...` with a job of our own in the table; returns exit status, stdout and stderr."""
    (tmp_path / "echo_job.py").write_text(JOB_MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    job = Job(("say", "echo"), "Print a text", "squall say echo text=hi", "echo_job", "EchoConfig")
    monkeypatch.setattr(cli, "JOBS", (job,))

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            cli.main(["say", "echo", *words])
        return (int(exit_info.value.code or 0), *capsys.readouterr())

    return run


def run_squall(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "squall", *words], cwd=ROOT, capture_output=True, text=True)


def test_help_answers_within_half_a_second_and_lists_every_command() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = run_squall("--help")
        seconds.append(time.perf_counter() - start)
    assert result.returncode == 0, result.stderr
    for job in JOBS:
        assert job.name in result.stdout and job.summary in result.stdout and job.example in result.stdout
    assert min(seconds) < 0.5


def test_help_imports_nothing_heavy() -> None:
    code = ("import sys; from squall.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
            "print(sorted({'torch', 'ray', 'numpy', 'pydantic', 'vllm', 'transformers'} & set(sys.modules)))")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.endswith("[]\n"), result.stderr


def test_version() -> None:
    result = run_squall("--version")
    assert (result.returncode, result.stdout) == (0, f"squall {squall.__version__}\n")


@pytest.mark.parametrize(("typed", "meant"), [
    (["demp"], "demo"), (["train", "tgrop"], "train tgrpo"), (["tgrpo"], "train tgrpo"), (["trian"], "train"),
])
def test_unknown_command_suggests_the_nearest(typed: list[str], meant: str) -> None:
    assert suggest(typed) == f" Did you mean '{meant}'?"


def test_unknown_command_is_one_line_and_exit_2() -> None:
    result = run_squall("train", "tgrop")
    assert result.returncode == 2
    assert result.stderr.startswith("error: 'train tgrop' is not a command. Did you mean 'train tgrpo'? Commands: d")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_every_job_loads_and_describes_its_keys(job: Job) -> None:
    model, run = job.load()
    assert callable(run)
    text = cli.job_help(job)
    assert f"squall {job.name} {job.usage} [key=value ...]" in text
    assert all(name in model.model_fields for name in [*job.arguments, *([job.rest] if job.rest else [])])
    for name, field in model.model_fields.items():
        assert f"  {name}" in text
        assert field.description, f"{model.__name__}.{name} has no docstring"


def test_keys_stand_before_a_command_and_its_words_stay_as_they_are() -> None:
    job = find_job("submit")
    model, _ = job.load()
    words = ["--gpus", "1", "secrets=[A]", "train", "tgrpo", "@demo", "steps=2", "--plan"]
    named = arguments.name_arguments(words, job, model)
    assert named == ["--gpus", "1", "secrets=[A]", 'command=["train", "tgrpo", "@demo", "steps=2", "--plan"]']
    assert arguments.split_arguments(named, model) == (None, ["gpus=1", *named[2:]])
    with pytest.raises(ConfigError, match="nothing to run; usage: squall submit"):
        arguments.name_arguments(["--gpus", "1"], job, model)


def test_a_job_in_the_table_is_a_command(run_echo) -> None:
    assert run_echo("text=ab", "times=3") == (3, "ababab\n", "")


def test_a_configuration_file_and_an_override(run_echo, tmp_path: Path) -> None:
    config = tmp_path / "echo.yaml"
    config.write_text("text: from file\ntimes: 0\n")
    assert run_echo(str(config), "text=typed", "times=0") == (0, "\n", "")


def test_errors_are_one_line_and_exit_2(run_echo) -> None:
    assert run_echo("--fail-now") == (2, "", "error: clips/1.mp4: broken\n")


def test_an_unknown_key_names_the_nearest(run_echo) -> None:
    status, _, stderr = run_echo("txet=1")
    assert status == 2
    assert stderr == ("error: defaults: unknown key 'txet'. Did you mean 'text'? "
                      "Allowed here: text, times, fail_now, interrupt\n")


def test_interrupt_is_one_line_and_exit_130(run_echo) -> None:
    assert run_echo("--interrupt") == (130, "", "interrupted\n")


@pytest.mark.parametrize(("word", "message"), [
    ("--times", "'--times' needs a value: --times VALUE, or times=VALUE"),
    ("--fail-new", "unknown option '--fail-new'. Did you mean '--fail-now'? "
                   "Switches here: --fail-now, --interrupt, --help"),
])
def test_flags_are_for_boolean_keys_only(run_echo, word: str, message: str) -> None:
    assert run_echo(word) == (2, "", f"error: {message}\n")


def test_two_configuration_files_are_refused(run_echo) -> None:
    assert run_echo("a.yaml", "b.yaml")[2].startswith("error: 'b.yaml': there is a configuration already, 'a.yaml'")


def test_job_help_shows_types_defaults_and_docstrings(run_echo) -> None:
    status, stdout, _ = run_echo("--help")
    assert status == 0
    assert "  text: str = nothing\n      What to print.\n  times: int = 1\n" in stdout


def test_every_training_job_has_a_title_and_a_section_of_its_own_in_the_report() -> None:
    from squall.platform.config import load_config

    for name in ("train tgrpo", "train sft"):
        job = find_job(name)
        model, _ = job.load()
        lines = job.report_section(load_config(model, job.default_config, ["evaluation.manifest=held.jsonl"]))
        assert job.title and any("held.jsonl" in line for line in lines), name


def test_words_fill_a_jobs_arguments_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "place_job.py").write_text(JOB_MODULE + "\nclass Needy(Config):\n    text: str\n    times: int = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    job = Job(("echo",), "Print a text", "squall echo hi", "place_job", "Needy", arguments=("text", "times"))
    model, _ = job.load()
    assert arguments.name_arguments(["is x=3: {y}?", "2"], job, model) == ['text="is x=3: {y}?"', 'times="2"']
    assert arguments.name_arguments(["times=2", "hi"], job, model) == ["times=2", 'text="hi"']
    assert arguments.name_arguments(["--times", "2", "hi"], job, model) == ["--times", "2", 'text="hi"']
    assert arguments.name_arguments(["text.jsonl", "times"], job, model) == ['text="text.jsonl"', 'times="times"']
    assert arguments.split_arguments(["--times", "2", "--text=a b"], model) == (None, ["times=2", "text=a b"])
    with pytest.raises(cli.ConfigError, match="TEXT is missing; usage: squall echo TEXT TIMES, such as: squall echo hi"):
        arguments.name_arguments(["times=2"], job, model)


def test_kinds_of_ones_own_are_found_in_the_working_folder(tmp_path):
    """By the installed script too, whose folder is another."""
    (tmp_path / "own_kinds.py").write_text("def dim(frames, timeline, *, severity):\n    frames[:] = frames * (1 - severity)\n")
    script = Path(sys.executable).with_name("squall")
    words = ["train", "tgrpo", "@demo", "corruption.kinds=[own_kinds:dim]", "data.train=none.jsonl", "evaluation.manifest=null"]
    found = subprocess.run([str(script), *words], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 2 and "none.jsonl" in found.stderr and "own_kinds" not in found.stderr
    words[3] = "corruption.kinds=[no_kinds:dim]"
    missing = subprocess.run([str(script), *words], cwd=tmp_path, capture_output=True, text=True)
    assert missing.returncode == 2 and "'no_kinds:dim': No module named 'no_kinds'" in missing.stderr
