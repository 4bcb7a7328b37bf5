"""A chat endpoint for tests: real HTTP on this machine, which misbehaves as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

HANG_S = 15.0
"""Longer than any client of these tests waits."""


class ChatServer(ThreadingHTTPServer):
    """Plays `script`, one entry a request, and then replies what `answer` makes of a question: scores of its pairs.

    An entry is the text of a reply, an HTTP status, ``(text, finish reason)``, the bytes of a whole body, or None to hang.
    A pair's score is the first character of its second text: "1 ..." scores 1, "h ..." scores 0.5, all others 0.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Any] = []
        self.answer: Callable[[str], str] = _scores
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.turn = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.turn:
            self.server.bodies.append(body)
            self.server.keys.append(self.headers["Authorization"])
            entry = self.server.script.pop(0) if self.server.script else self.server.answer(
                body["messages"][-1]["content"])
        if entry is None:
            time.sleep(HANG_S)
        elif isinstance(entry, int):
            self._send(entry, json.dumps({"error": {"message": f"trouble with {self.headers['Authorization']}"}}).encode())
        elif isinstance(entry, bytes):
            self._send(200, entry)
        else:
            text, reason = entry if isinstance(entry, tuple) else (entry, "stop")
            self._send(200, json.dumps(_completion(text, reason)).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *values: Any) -> None:
        return None


def _scores(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, list):  # a question about pictures
        return "<answer>A</answer>"
    pairs = [json.loads(line) for line in content.split("\n") if line.startswith('{"pair"')]
    return json.dumps([{"1": 1, "h": 0.5}.get(pair["second"][0], 0) for pair in pairs])


def _completion(text: str, reason: str) -> dict[str, Any]:
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}}


@contextmanager
def serving() -> Iterator[ChatServer]:
    """A server that answers while the block runs."""
    with ChatServer() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def chat_server() -> Iterator[ChatServer]:
    """A server of its own for each test."""
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def module_chat_server() -> Iterator[ChatServer]:
    """One for the tests of a module."""
    with serving() as server:
        yield server
