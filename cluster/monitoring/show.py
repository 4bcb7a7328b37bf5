"""Alarms on trial: a real run on a cluster of its own, watched by a real Prometheus, with faults put into it.

An engine is stopped (SIGSTOP) until the alarms for a stuck run ring, and goes on; then it is killed; then the driver is. Needs
`prometheus` (Debian's package has it), and some 5 minutes on two cores. The rules are rules.yml with shorter limits.

    python cluster/monitoring/show.py           # --keep leaves everything up afterwards, to look at it in a browser
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
RUN = "watched"
LIMITS = {"phase_seconds": 40, "commit_seconds": 60}
"""In place of those in rules.yml."""
PATIENCE_S = 900.0
"""Two cores that much else shares take that long."""
STUCK = ("SquallStuckPhase", "SquallNoGroupCommitted")
TRAIN = ("train", "tgrpo", "@demo", f"name={RUN}", "steps=500", "evaluation.manifest=null", "groups_per_step=4",
         "max_sampled_groups=60", "engine.startup_timeout_s=900")


def main() -> int:
    """Run the trial; 0 when every alarm rang, and the run went on between."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="leave run, cluster and Prometheus up until Ctrl-C, with no fault")
    keep = parser.parse_args().keep
    if shutil.which("prometheus") is None:
        sys.exit("error: no `prometheus` on the path; Debian's package of that name has it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="squall-show-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        cluster = stack.enter_context(started_cluster(folder))
        url = stack.enter_context(started_prometheus(folder))
        driver = stack.enter_context(started_run(folder, cluster))
        tell(f"Prometheus {url}, Ray dashboard http://{cluster['dashboard']} (token {cluster['RAY_AUTH_TOKEN']})")
        wait_for("two steps", lambda: value(url, f'max(ray_squall_step{{run="{RUN}"}})') >= 2, driver)
        if keep:
            tell("Ctrl-C ends it all")
            signal.pause()
        put_on_trial(url, driver)
    return 0


def put_on_trial(url: str, driver: subprocess.Popen[bytes]) -> None:
    """Every fault, and the alarms that must ring after it."""
    tell(f"no alarm before: {sorted(firing(url))}")
    engine = engine_of_run()
    engine.suspend()
    await_alarms(url, "engine stopped (SIGSTOP)", STUCK)
    engine.resume()
    await_silence(url, "engine goes on (SIGCONT)", STUCK)
    engine.kill()
    await_alarms(url, "engine killed", ("SquallWorkerDied",))
    await_silence(url, "engine came back by itself", ("SquallWorkerAway",))
    driver.kill()
    await_alarms(url, "driver killed", ("SquallRunGone",))


def await_alarms(url: str, fault: str, names: Sequence[str]) -> None:
    started = time.monotonic()
    for name in names:
        wait_for(f"{name} after: {fault}", lambda name=name: name in firing(url))
        tell(f"{fault}: {name} rings after {time.monotonic() - started:.0f} s: {firing(url)[name]}")


def await_silence(url: str, event: str, names: Sequence[str]) -> None:
    started = time.monotonic()
    wait_for(f"silence after: {event}", lambda: not firing(url).keys() & set(names))
    tell(f"{event}: {', '.join(names)} silent after {time.monotonic() - started:.0f} s")


@contextmanager
def started_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A head on the loopback interface that asks for a token; yields the environment that joins it."""
    gcs, dashboard, metrics, agent = (free_port() for _ in range(4))
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    shared = {"RAY_raylet_start_wait_time_s": "90", "RAY_worker_niceness": "0"}  # for cores that other work has too
    words = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=4",
             "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--port={gcs}", f"--dashboard-port={dashboard}",
             f"--metrics-export-port={metrics}", f"--dashboard-agent-listen-port={agent}", f"--temp-dir={folder / 'ray'}"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with running(words, folder / "head.log", {"PATH": path, **shared, **access}) as head:
        wait_for("the head", lambda: "Ray runtime started" in (folder / "head.log").read_text(), head)
        yield {"RAY_ADDRESS": f"127.0.0.1:{gcs}", "dashboard": f"127.0.0.1:{dashboard}", **access}


@contextmanager
def started_prometheus(folder: Path) -> Iterator[str]:
    """Prometheus with the shipped configuration, the head's own list of nodes, and shorter limits; yields its address."""
    settings = (HERE / "prometheus.yml").read_text().replace("/tmp/ray/", f"{folder / 'ray'}/").replace("10s", "5s")
    rules = (HERE / "rules.yml").read_text()
    for name, seconds in LIMITS.items():
        rules, found = re.subn(rf"(record: squall:limit:{name}\n\s*expr: )vector\(.*\)", rf"\g<1>vector({seconds})", rules)
        assert found == 1, name
    (folder / "prometheus.yml").write_text(settings)
    (folder / "rules.yml").write_text(re.sub(r"for: \d+[sm]", "for: 10s", rules))
    address = f"127.0.0.1:{free_port()}"
    words = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'series'}",
             f"--web.listen-address={address}"]
    with running(words, folder / "prometheus.log"):
        yield f"http://{address}"


@contextmanager
def started_run(folder: Path, cluster: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    squall = [sys.executable, "-m", "squall"]
    subprocess.run([*squall, "data", "embedded", f"directory={folder / 'data'}", "train_clips=60", "validation_clips=4",
                    "test_clips=4"], check=True, stdout=subprocess.DEVNULL)
    words = [*squall, *TRAIN, f"data.train={folder / 'data' / 'train.jsonl'}", f"output={folder / 'runs'}"]
    with running(words, folder / "run.log", cluster) as driver:
        yield driver


@contextmanager
def running(words: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process with all its children, ended with the block."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env={**clean, **(environment or {})})
    try:
        yield process
    except SystemExit:
        print(f"--- {log.name}\n{log.read_text(errors='replace')[-800:]}", file=sys.stderr)
        raise
    finally:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait(timeout=60)


def engine_of_run() -> psutil.Process:
    """The process of engine-0, by the title that Ray gives it, among those that this program started."""
    for _ in range(10):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if re.match("ray::(engine-0:)?RolloutEngine", " ".join(process.cmdline())):  # whatever it is doing
                    return process
        time.sleep(1)
    sys.exit("error: engine-0 is no process of this cluster")


def firing(url: str) -> dict[str, str]:
    """Summary of every alarm that rings now."""
    alerts = get(f"{url}/api/v1/alerts")["data"]["alerts"]
    return {alert["labels"]["alertname"]: alert["annotations"]["summary"] for alert in alerts if alert["state"] == "firing"}


def value(url: str, query: str) -> float:
    """First value of an instant query; -1 when there is none, or no answer yet."""
    try:
        found = get(f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}")["data"]["result"]
    except OSError:
        return -1.0
    return float(found[0]["value"][1]) if found else -1.0


def get(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def wait_for(what: str, condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if process is not None and process.poll() is not None:
            sys.exit(f"error: {what}: {' '.join(map(str, process.args[:4]))} ended with status {process.returncode}")
        if time.monotonic() > deadline:
            sys.exit(f"error: {what}: not within {PATIENCE_S:.0f} s")
        time.sleep(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
