"""A Ray head and further nodes on one machine that share nothing, where the kernel allows unprivileged namespaces.

Every node has a network address, a /dev/shm, process numbers and a folder `here` of
its own: what another node cannot reach over the network or in a shared folder it cannot reach at all. A node is killed as by
a power cut: SIGKILL to everything on it at once.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).with_name("ray"))
APART = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
STORE_BYTES = 100 << 20
STARTS = 5


def can_part() -> bool:
    """Whether this machine lets nodes have networks and folders of their own."""
    tools = all(shutil.which(tool) for tool in ("unshare", "nsenter", "ip", "mount"))
    bridge = [*APART, "ip", "link", "add", "bridge0", "type", "bridge"]
    return tools and subprocess.run(bridge, capture_output=True).returncode == 0


class Nodes:
    """Nodes of one cluster; `head` first. Use `nodes()`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shared, self.here = folder, folder / "shared", folder / "here"
        """`shared` is one folder for all nodes; `here` another one on each (seen from outside as node-0, node-1, ...)."""
        self.shared.mkdir()
        self.here.mkdir()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._outside = subprocess.Popen([*APART, "sleep", "3600"])
        self._enter = ["nsenter", "-t", str(self._outside.pid), "-U", "-n", "-m", "--preserve-credentials"]
        self.port, self.dashboard = free_port(), free_port()
        self._await_namespace(self._outside.pid)
        self._inside("ip link set lo up && ip link add bridge0 type bridge && "
                     "ip addr add 10.77.0.1/24 dev bridge0 && ip link set bridge0 up")

    @property
    def url(self) -> str:
        """Address of the dashboard."""
        return f"http://{self.ip(0)}:{self.dashboard}"

    def ip(self, number: int) -> str:
        """A node's address."""
        return f"10.77.0.{number + 1}"

    def own(self, number: int) -> Path:
        """A node's `here`, as it is seen from outside."""
        return self.folder / f"node-{number}"

    def start_head(self, *words: str, **environment: str) -> None:
        """Start node 0, with the dashboard."""
        self._up(0, ["--head", f"--port={self.port}", f"--dashboard-host={self.ip(0)}", f"--dashboard-port={self.dashboard}",
                        f"--temp-dir={self.here}/ray", *words], environment)

    def join(self, number: int, *words: str, **environment: str) -> None:
        """Start another node; returns when the cluster has it."""
        self._up(number, [f"--address={self.ip(0)}:{self.port}", *words], environment)

    def kill(self, number: int) -> None:
        """End a node as a power cut does."""
        process = self._running.pop(number)
        with suppress(psutil.NoSuchProcess):  # it has ended by itself
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait(timeout=60)

    def popen(self, words: Sequence[str], folder: Path, **environment: str) -> subprocess.Popen[str]:
        """A command on the head's node."""
        own = f"mount --bind {self.own(0)} {self.here} && "
        at = [*self._enter, "unshare", "--mount", "sh", "-c", f'{own}cd {folder} && exec "$@"', "-"]
        return subprocess.Popen([*at, *words], env=self.environment(environment), text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A short command in the head's network."""
        return subprocess.run([*self._enter, *words], capture_output=True, text=True, timeout=60)

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """This process's without what another cluster of the same test run has left in it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return kept | {"RAY_AUTH_MODE": "disabled", "PATH": path} | more

    @staticmethod
    def wait_until(condition: Callable[[], bool], seconds: float, what: str = "it") -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
            time.sleep(0.2)

    def stop(self) -> None:
        for number in tuple(self._running):
            self.kill(number)
        self._outside.kill()
        self._outside.wait()

    def _up(self, number: int, words: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start a node and wait until it is up; Ray gives one 30 seconds, which a busy machine may exceed."""
        log = self.folder / f"node-{number}.log"
        for _ in range(STARTS):
            self._start(number, words, environment)
            while self._running[number].poll() is None:
                if "Ray runtime started" in log.read_text():
                    return
                time.sleep(0.2)
            self.kill(number)
        raise AssertionError(log.read_text())

    def _start(self, number: int, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self.own(number).mkdir(exist_ok=True)
        ports = [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "metrics-export-port")]
        command = [RAY, "start", "--block", "--disable-usage-stats", f"--node-ip-address={self.ip(number)}",
                   f"--object-store-memory={STORE_BYTES}", *ports, *words]
        command = [*self._enter, *(["unshare", "--mount"] if number == 0 else
                   ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]),
                   "sh", "-c", self._prepare(number), "-", *command]
        with (self.folder / f"node-{number}.log").open("wb") as log:
            process = self._running[number] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT,
                                                               env=self.environment(environment))
        if number:
            self._await_namespace(process.pid, self._outside.pid)
            link = f"v{process.pid}"
            self._inside(f"ip link add {link} type veth peer name eth0 netns {process.pid} && "
                         f"ip link set {link} master bridge0 up")

    def _prepare(self, number: int) -> str:
        network = f"until ip addr add {self.ip(number)}/24 dev eth0; do sleep 0.05; done 2>/dev/null; ip link set eth0 up; "
        return ((network if number else "") + "ip link set lo up; mount -t tmpfs tmpfs /dev/shm; "
                f'mount --bind {self.own(number)} {self.here}; cd {self.here}; exec "$@"')

    def _inside(self, script: str) -> None:
        subprocess.run([*self._enter, "sh", "-ec", script], check=True, timeout=30)

    def _await_namespace(self, process: int, *others: int) -> None:
        """Wait until a process has a network of its own: it is in this process's first, and may pass through others'."""
        known = {os.readlink(f"/proc/{other}/ns/net") for other in (os.getpid(), *others)}
        self.wait_until(lambda: os.readlink(f"/proc/{process}/ns/net") not in known, 10)


@contextmanager
def nodes() -> Iterator[Nodes]:
    """No node yet, in a folder whose short name leaves room for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="sq-", dir="/tmp"))
    made = Nodes(folder)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port of the loopback interface that nothing listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
