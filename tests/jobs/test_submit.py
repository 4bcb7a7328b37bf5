"""Submitting: what is checked here before anything goes to a cluster."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest

from squall.actors import job_client
from squall.jobs import submit
from squall.jobs.submit import SubmitConfig, complete, find_command, runtime_environment
from squall.platform.errors import ConfigError, SquallError


@pytest.fixture(autouse=True)
def no_cluster_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in job_client.ADDRESS_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_command_is_found_and_a_file_says_which_it_is_for(tmp_path: Path) -> None:
    job, words = find_command(["train", "tgrpo", "@demo", "steps=2"])
    assert (job.name, words) == ("train tgrpo", ["train", "tgrpo", "@demo", "steps=2"])
    assert find_command(["@sft", "steps=2"])[1] == ["train", "sft", "@sft", "steps=2"]
    nameless = tmp_path / "a.yaml"
    nameless.write_text("steps: 3")
    with pytest.raises(ConfigError, match="does not say which job it is for: add a line such as 'job: train tgrpo'"):
        find_command([str(nameless)])


@pytest.mark.parametrize("words", [["train", "tgrp"], ["submit", "demo"], ["nonsense"]])
def test_what_is_no_job_is_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="is not a job that can be submitted"):
        find_command(words)


def test_a_run_is_named_after_the_job_and_its_output_must_outlive_the_upload() -> None:
    job, words = find_command(["@demo", "steps=2"])
    assert complete(job, words, "a-job", here=True) == [*words, "name=a-job"]
    assert complete(job, [*words, "name=mine"], "a-job", here=True) == [*words, "name=mine"]
    with pytest.raises(ConfigError, match="output = 'runs' would be in the uploaded copy"):
        complete(job, words, "a-job", here=False)
    assert complete(job, [*words, "output=/shared/runs"], "a-job", here=False)[-1] == "name=a-job"
    with pytest.raises(ConfigError, match="unknown key 'stepz'. Did you mean 'steps'"):
        complete(job, ["train", "tgrpo", "@demo", "stepz=2"], "a-job", here=True)


def test_the_environment_uploads_a_folder_or_runs_in_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    more = tmp_path / "env.yaml"
    more.write_text("pip: [einops]\nenv_vars: {A: b}\n")
    config = SubmitConfig(command=("demo",), runtime_env=more)
    here, away = runtime_environment(config, here=True), runtime_environment(config, here=False)
    assert here["env_vars"][job_client.FOLDER_VARIABLE] == str(tmp_path) and "working_dir" not in here
    assert away["working_dir"] == "." and ".git" in away["excludes"] and job_client.FOLDER_VARIABLE not in away["env_vars"]
    assert here["pip"] == away["pip"] == ["einops"] and here["env_vars"]["A"] == "b"
    with pytest.raises(ConfigError, match="no such folder"):
        runtime_environment(SubmitConfig(command=("demo",), working_dir=tmp_path / "gone"), here=False)


@pytest.mark.parametrize(("address", "environment", "found"), [
    ("http://head:8265/", {}, "http://head:8265"),
    (None, {"RAY_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "http://b:2"}, "http://b:2"),
    (None, {"RAY_ADDRESS": "10.0.0.1:6379"}, job_client.DEFAULT_ADDRESS),
])
def test_where_jobs_go(address: str | None, environment: dict[str, str], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert job_client.dashboard_address(address) == found


def test_an_address_that_is_no_dashboard_is_refused() -> None:
    with pytest.raises(ConfigError, match="address = 'head:6379': jobs go to the cluster's dashboard, http://HOST:8265"):
        job_client.dashboard_address("head:6379")


def test_a_single_secret_needs_no_brackets() -> None:
    assert SubmitConfig(command=("demo",), secrets="WANDB_API_KEY").secrets == ("WANDB_API_KEY",)


def test_nothing_is_sent_without_the_secrets_or_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SQUALL_NO_SUCH", raising=False)
    with pytest.raises(ConfigError, match="secrets: SQUALL_NO_SUCH not set in this environment"):
        submit.run(SubmitConfig(command=("@demo",), secrets=("SQUALL_NO_SUCH",)))
    with pytest.raises(SquallError, match="no Ray dashboard answers at http://127.0.0.1:9 .Connection refused."):
        submit.run(SubmitConfig(command=("@demo",), address="http://127.0.0.1:9"))


@pytest.mark.parametrize(("submitted", "installed", "message"), [
    ("0.0.1", "0.1.0", "submitted by Squall 0.0.1, and the cluster runs 0.1.0"),
    ("0.1.0", "0.0.9", "the uploaded code is Squall 0.1.0 and the cluster's environment was made for 0.0.9"),
])
def test_versions_that_differ_stop_a_job(submitted: str, installed: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_client.squall, "__version__", "0.1.0")
    monkeypatch.setattr(job_client.metadata, "version", lambda name: installed)
    monkeypatch.setenv(job_client.VERSION_VARIABLE, submitted)
    with pytest.raises(SquallError, match=message):
        job_client.enter_submission()


def test_what_is_sent_is_an_archive_of_the_folder_without_what_is_excluded(tmp_path: Path,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kept/a.py", "runs/b.txt", "data/c.mp4", ".git/d", "ignored.log", ".gitignore"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("*.log")
    monkeypatch.chdir(tmp_path)
    environment = runtime_environment(SubmitConfig(command=("demo",)), here=False)
    with job_client.packed(environment) as sent, ZipFile(sent["working_dir"]) as archive:
        assert {name for name in archive.namelist() if not name.endswith("/")} == {"kept/a.py", ".gitignore"}
        assert "excludes" not in sent and sent["env_vars"] == environment["env_vars"]
    assert not Path(sent["working_dir"]).exists()
    for elsewhere in ({}, {"working_dir": "gcs://_ray_pkg_0123456789abcdef.zip", "excludes": ["a"]}):
        with job_client.packed(elsewhere) as sent:
            assert sent == elsewhere
