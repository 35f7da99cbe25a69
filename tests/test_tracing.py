"""Spans over OTLP, to a receiver of http.server that stands in for a collector."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from threading import enumerate as enumerate_threads
from typing import Any

import pytest

from pdray.errors import UserError
from pdray.shards import Outcome, ShardedFolder, run_rounds
from pdray.storage import StoragePath
from pdray.tracing import span, tell, traced
from tests.test_import import loaded_by

MARK = "dontlogme"


@dataclass
class Collector:
    """What came, and the status that is answered."""

    url: str = ""
    status: int = 200
    bodies: list[bytes] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def services(self) -> set[str]:
        """What the spans are said to be of."""
        return {
            pair.value.string_value
            for resource in self._resources()
            for pair in resource.resource.attributes
            if pair.key == "service.name"
        }

    def _resources(self) -> list[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        return [one for body in self.bodies for one in ExportTraceServiceRequest.FromString(body).resource_spans]

    def spans(self) -> dict[str, tuple[str | None, dict[str, object], bool]]:
        """Name -> name of the span around it, attributes, whether it failed."""
        found = [one for resource in self._resources() for scope in resource.scope_spans for one in scope.spans]
        names = {one.span_id: one.name for one in found}
        return {
            one.name: (
                names.get(one.parent_span_id),
                {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in one.attributes},
                one.status.code == 2,
            )
            for one in found
        }


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    found = Collector()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            found.keys.append(self.headers.get("x-mark", ""))
            found.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, *words: object) -> None:
            """Nothing on standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-mark={MARK}")
        yield found
        server.shutdown()
        thread.join()


def test_run_stages_and_rounds_are_spans_with_their_figures(collector: Collector, tmp_path: object) -> None:
    shards = ShardedFolder(StoragePath(str(tmp_path)), "print", 1)

    def attempt(missing: object) -> list[Outcome]:
        shards.write(0, {}, 0, {}, {"texts": ["{}"]})
        return [Outcome(0)]

    with traced(pytest.fail, "run", run="runs/mine", rounds=1), span("stage scores"):
        run_rounds(shards, attempt, pytest.fail)
        tell(rows_out=7)
    assert collector.spans() == {
        "run": (None, {"run": "runs/mine", "rounds": 1}, False),
        "stage scores": ("run", {"rows_out": 7}, False),
        "round": ("stage scores", {"number": 1, "shards": 1, "failed": 0}, False),
    }
    assert set(collector.keys) == {MARK}


def test_what_ends_a_run_marks_its_spans(collector: Collector) -> None:
    with pytest.raises(UserError), traced(pytest.fail, "run"), span("stage scores"):
        raise UserError("mend it")
    assert {name: failed for name, (_, _, failed) in collector.spans().items()} == {"run": True, "stage scores": True}


def test_a_second_run_of_a_process_is_traced_too(collector: Collector) -> None:
    for _ in range(2):
        with traced(pytest.fail, "run"), traced(pytest.fail, "a run in it"):
            pass
    assert len(collector.bodies) == 2
    assert {name: around for name, (around, *_) in collector.spans().items()} == {"run": None, "a run in it": "run"}
    assert not [thread for thread in enumerate_threads() if thread.name.startswith("Otel")]


def test_the_variables_of_the_library_say_where_to_by_what_and_of_whom(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.url}/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    with traced(pytest.fail, "run"):
        pass
    assert collector.services() == {"pdray"}
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    with traced(pytest.fail, "run"):
        pass
    assert collector.services() == {"pdray", "mine"}


@pytest.mark.parametrize("status", [401, 400])
def test_a_collector_that_refuses_fails_no_run_and_its_key_is_not_logged(
    collector: Collector, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = status
    caplog.set_level(logging.DEBUG)
    with traced(pytest.fail, "run"):
        pass
    assert collector.keys == [MARK]
    assert "opentelemetry" in " ".join(record.name for record in caplog.records)
    assert MARK not in caplog.text


def test_a_header_that_cannot_be_read_is_not_quoted(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"Authorization: Bearer {MARK}")
    with traced(pytest.fail, "run"):
        pass
    assert len(collector.bodies) == 1
    assert "Header format invalid" in caplog.text
    assert MARK not in caplog.text


def test_what_hinders_is_told_and_the_run_goes_on(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with monkeypatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        with traced(told.append, "run"), span("stage scores"):
            tell(rows_out=1)
    with monkeypatch.context() as patch:
        patch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
        with traced(told.append, "run"):
            pass
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with traced(told.append, "run"):
        pass
    assert told == [
        "no traces: the protocol grpc is asked for, but pdray sends http/protobuf; "
        "set OTEL_EXPORTER_OTLP_PROTOCOL to it",
        "no traces: OpenTelemetry refuses its settings (ValueError: max_export_batch_size must be less than or equal "
        "to max_queue_size.); correct the OTEL_ variables",
        "no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed; pip install 'pdray[otel]'",
    ]
    assert collector.bodies == []


def test_without_an_endpoint_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    code = "from pdray.tracing import span, traced\nwith traced(print, 'run'), span('stage'): pass"
    assert loaded_by(code, ("opentelemetry", "ray")) == []
