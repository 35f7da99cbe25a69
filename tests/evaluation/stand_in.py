"""A stand-in for a judge's server: it answers as a function says, faults included, and counts what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Fault:
    """A status and a body as they are, after some seconds; with the status 0 the connection is closed instead."""

    status: int = 200
    body: str = ""
    seconds: float = 0.0


Said = str | Fault
Answering = Callable[[str, int], Said]  # of a question and how often it was asked before


@dataclass
class StandIn:
    """A running server.

    Attributes:
        url: its base.
        questions: in the order in which they came.
        requests: their bodies.
        headers: of each.
    """

    url: str = ""
    questions: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def stand_in(answer: Answering) -> Iterator[StandIn]:
    """Serve on loopback while the block runs."""
    seen, lock = StandIn(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["messages"][0]["content"]
            with lock:
                before = seen.questions.count(question)
                seen.questions.append(question)
                seen.requests.append(body)
                seen.headers.append({name.lower(): value for name, value in self.headers.items()})
            said = answer(question, before)
            fault = said if isinstance(said, Fault) else Fault(body=completion(said))
            time.sleep(fault.seconds)
            if not fault.status:
                self.close_connection = True
                return
            data = fault.body.encode()
            self.send_response(fault.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *values: Any) -> None:
            """Nothing."""

        def handle(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):  # of a client that did not wait
                super().handle()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # of five, the usual, some connections of a client in a hurry would be refused

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    seen.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()


def completion(text: str, finish_reason: str = "stop") -> str:
    """The body of a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]})


def longer_wins(question: str, before: int = 0) -> str:
    """What a judge of length says."""
    first, second = (
        question.partition(f"<answer {letter}>\n")[2].partition(f"\n</answer {letter}>")[0] for letter in "AB"
    )
    return "tie" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
