"""Traces for OpenTelemetry: sent to a real receiver of OTLP over HTTP."""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sfss.web.traces import are_wanted
from tests.servers import Gateway, Server, ask, gateway, nginx_node, running, wait_until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
SERVER, CLIENT, ERROR = 2, 3, 2


class Receiver:
    """What was sent so far: spans, and the resources that they are of."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def take(self, path: str, body: bytes) -> None:
        """Take in what was sent to a path."""
        assert path == "/v1/traces"
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(attributes(each.resource))
            self.spans += [span for scope in each.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Any]:
        """Return the spans of this name."""
        return [span for span in self.spans if span.name == name]


def attributes(of: Any) -> dict[str, str]:
    """Return the attributes of a span or a resource, as text."""
    return {
        each.key: each.value.string_value or str(each.value.int_value) for each in of.attributes
    }


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver for the block."""
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


def over(web: Server, folder: Path, environ: Mapping[str, str]) -> Gateway:
    """Return a gateway (not started) over a node that speaks HTTP."""
    settings = (
        "[cluster]\nkind = 'replicated'\n[replicated]\nplacement = 'mirror'\n"
        f"stores = ['http://{web.address}/']\nowed_folder = 'owed'\n"
    )
    return gateway(folder, settings=settings, environ=environ)


@pytest.fixture(name="web")
def node_that_notes_traces(tmp_path: Path) -> Iterator[Server]:
    """A node with a log, ``asked``, of the traces that it is told of."""
    web = nginx_node(tmp_path)
    conf = Path(web.command[web.command.index("-c") + 1])
    form = "log_format asked '$request_method $http_traceparent $http_tracestate';"
    log = f"{form} access_log {tmp_path / 'asked'} asked;"
    conf.write_text(conf.read_text().replace("access_log off;", log))
    with running(web):
        yield web


def test_requests_and_what_stores_are_asked_for_them_are_told(tmp_path: Path, web: Server) -> None:
    with receiving() as receiver:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with running(over(web, tmp_path, environ)) as front, closing(front.connect()) as connection:
            assert ask(connection, "PUT", "/file?path=a", b"x", GIVEN).status == 200
            answer = ask(connection, "GET", "/file?path=a&secret=no")
            assert answer.status in (200, 400)
            assert ask(connection, "GET", "/file?path=a").body == b"x"
            assert ask(connection, "GET", "/file?path=none").status == 404
            ask(connection, "GET", "/health/ready")
            web.kill()
            assert ask(connection, "GET", "/file?path=a").status == 504
            wait_until(lambda: len(receiver.named("GET /file")) == 4, "spans are sent")
            (put,) = receiver.named("PUT /file")
            wait_until(lambda: receiver.named("store set"), "spans of stores are sent")
            assert front.stop() == 0
    assert (put.trace_id.hex(), put.parent_span_id.hex(), put.kind) == (TRACE, PARENT, SERVER)
    said = attributes(put)
    assert (said["http.route"], said["url.path"]) == ("/file", "/file")
    assert said["http.response.status_code"] == "200"
    below = [span for span in receiver.named("store set") if span.parent_span_id == put.span_id]
    assert below
    for span in below:
        assert (span.trace_id, span.kind) == (put.trace_id, CLIENT)
        assert put.start_time_unix_nano <= span.end_time_unix_nano
        assert attributes(span)["sfss.store"] == f"http://{web.address}/"
    reads = receiver.named("GET /file")
    assert len({span.trace_id for span in reads}) == 4  # one connection, four traces
    assert all(not span.parent_span_id for span in reads)
    kinds = [attributes(span).get("error.type") for span in reads]
    assert kinds[-2:] == ["not_found", "no_store_reachable"]
    assert [span.status.code for span in reads[-2:]] == [0, ERROR]
    assert not [span for span in receiver.spans if "health" in span.name]
    assert "secret" not in str(receiver.spans)
    assert receiver.resources[0]["service.name"] == "sfss"
    passed_on = (tmp_path / "asked").read_text()
    assert f"PUT 00-{TRACE}-{put.span_id.hex()}-01 vendor=1" in passed_on
    assert re.search("GET 00-[0-9a-f]{32}-[0-9a-f]{16}-0[13] -", passed_on)


def test_nothing_is_told_unasked(tmp_path: Path, web: Server) -> None:
    with running(over(web, tmp_path, {"OTEL_TRACES_EXPORTER": "none"})) as front:
        front.request("PUT", "/file?path=a", b"x", GIVEN)
    asked = (tmp_path / "asked").read_text()
    assert "PUT" in asked
    assert TRACE not in asked


def test_a_receiver_that_is_away_harms_nobody(tmp_path: Path) -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    settings = "[embedded]\nfolder = 'store'\n"
    with running(gateway(tmp_path, settings=settings, environ=environ)) as front:
        for number in range(20):
            assert front.put(f"{number}", b"x").status == 200
            assert front.get(f"{number}").body == b"x"
        assert front.stop() == 0


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "True"}, False),
    ],
)
def test_the_environment_says_whether_there_are_traces(
    environ: dict[str, str], wanted: bool
) -> None:
    assert are_wanted(environ) is wanted
