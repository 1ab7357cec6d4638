"""The faces metrics and health: what all workers count, and whether a gateway can serve."""

import json
import logging
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from sfss.json_log import JsonFormatter
from sfss.metrics import Board
from sfss.timings import BOUNDS_S, CELLS, LINES, SUM, Timings, read
from tests.servers import (
    Answer,
    Gateway,
    Server,
    ask,
    gateway,
    listens,
    memcached,
    nginx_node,
    node,
    running,
    wait_until,
)

FACES = ["native", "paths", "status", "health", "metrics"]
SETTINGS = f"[server]\nworkers = 2\nfaces = {FACES}\n[embedded]\nfolder = 'sto\"re'\n"

Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(text: str) -> dict[Sample, float]:
    """Return all samples of a page of metrics."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(server: Gateway) -> dict[Sample, float]:
    """Return all samples of a gateway."""
    answer = server.request("GET", "/metrics")
    assert answer.status == 200, answer.body
    return samples(answer.body.decode())


def value(found: Mapping[Sample, float], name: str, **labels: str) -> float:
    """Return one sample, 0 where there is none."""
    return found.get((name, frozenset(labels.items())), 0)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway with two workers."""
    with running(gateway(tmp_path, settings=SETTINGS)) as server:
        wait_until(lambda: value(scraped(server), "sfss_workers") == 2, "two workers serve")
        yield server


def requests(found: Mapping[Sample, float], face: str, method: str, status: int) -> float:
    """Return how many requests were answered so."""
    labels = {"face": face, "method": method, "status": str(status)}
    return value(found, "sfss_requests_total", **labels)


def test_requests_of_all_workers_are_counted(pair: Gateway) -> None:
    for number in range(20):
        assert pair.put(f"{number}", b"12345").status == 200
    for _ in range(10):
        # Each on a connection of its own, so some go to either worker; and the file from memory.
        with closing(pair.connect()) as connection:
            for target in ("/file?path=1", "/1", "/file?path=1", "/1"):
                assert ask(connection, "GET", target).body == b"12345"
    pair.request("GET", "/file?path=none")
    pair.request("GET", "/file?path=1", headers={"Range": "bytes=1-2"})
    pair.request("HEAD", "/1")
    pair.request("PURGE", "/status")
    # A request is counted when it has been answered: the other worker may look a moment before.
    purged = {"face": "status", "method": "other", "status": "405"}
    wait_until(lambda: value(scraped(pair), "sfss_requests_total", **purged), "all are counted")
    lags = "sfss_event_loop_lag_seconds_count"
    wait_until(lambda: value(scraped(pair), lags), "a worker looks at how late it is")
    found = scraped(pair)
    assert requests(found, "native", "PUT", 200) == 20
    assert requests(found, "native", "GET", 200) == 20
    assert requests(found, "paths", "GET", 200) == 20
    assert requests(found, "native", "GET", 404) == 1
    assert requests(found, "native", "GET", 206) == 1
    assert requests(found, "paths", "HEAD", 200) == 1
    assert requests(found, "status", "other", 405) == 1
    assert value(found, "sfss_received_bytes_total") == 100
    labels = {"face": "native", "method": "GET"}
    assert value(found, "sfss_request_duration_seconds_count", **labels) == 22
    name = "sfss_request_duration_seconds_bucket"
    buckets = [value(found, name, le=str(le), **labels) for le in (*BOUNDS_S, "+Inf")]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 22
    store = 'embedded:sto"re'
    asked = {"store": store, "operation": "set", "outcome": "ok"}
    assert value(found, "sfss_store_operations_total", **asked) == 20
    assert value(found, "sfss_store_up", store=store) == 1


def test_the_status_says_the_same_as_the_metrics(pair: Gateway) -> None:
    pair.put("a", b"x")
    for _ in range(5):
        pair.get("a")
    pair.request("GET", "/nothing/is/here")

    def differs_by() -> dict[str, float]:
        told = pair.request("GET", "/status?detail=full").json()["webserver"]["requests"]
        differences = defaultdict(float, {status: -number for status, number in told.items()})
        for (name, labels), number in scraped(pair).items():
            if name == "sfss_requests_total":
                differences[dict(labels)["status"]] += number
        return differences

    # The question for the status was itself counted when it had been answered.
    wait_until(lambda: differs_by() == {"200": 1, "404": 0}, "both say the same")


def test_what_a_killed_worker_has_counted_stays(pair: Gateway) -> None:
    for number in range(10):
        pair.put(f"{number}", b"x")
        pair.get(f"{number}")
    before = scraped(pair)
    for victim in pair.workers():
        os.kill(victim, signal.SIGKILL)
        wait_until(
            lambda victim=victim: victim not in (now := pair.workers()) and len(now) == 2,
            "another worker is in its place",
        )
        # Their listening sockets are shared: what is refused is asked again.
        wait_until(lambda: _ready(pair), "the gateway answers")
    after = scraped(pair)
    counters = [key for key in before if key[0].endswith(("_total", "_count", "_bucket", "_sum"))]
    assert len(counters) > 50
    assert not [key for key in counters if after.get(key, -1) < before[key]]
    pair.put("more", b"x")
    # Counted when the answer has gone, perhaps in another worker than the one that is asked.
    wait_until(lambda: requests(scraped(pair), "native", "PUT", 200) == 11, "it goes on from there")


def _ready(server: Gateway) -> bool:
    try:
        return server.request("GET", "/health/ready").status == 200
    except OSError:
        return False


def test_prometheus_may_have_the_newer_format(pair: Gateway) -> None:
    wanted = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    answer = pair.request("GET", "/metrics", headers=wanted)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert list(openmetrics.text_string_to_metric_families(answer.body.decode()))
    plain = pair.request("GET", "/metrics").headers["content-type"]
    assert plain.startswith("text/plain; version=0.0.4")


def health(server: Gateway) -> tuple[int, Any]:
    """Return the status of /health/ready and what it says."""
    answer = server.request("GET", "/health/ready")
    return answer.status, answer.json()


def is_said(server: Gateway, status: int, holds: Callable[[Any], bool]) -> bool:
    found, document = health(server)
    return found == status and holds(document)


def replicated(servers: Sequence[Server], more: str = "") -> str:
    """Return the settings of a gateway with copies on ``servers``."""
    stores = [server.address for server in servers]
    return (
        "[cluster]\nkind = 'replicated'\n[server]\nfaces = ['native', 'health', 'metrics']\n"
        f"[replicated]\nstores = {stores}\nowed_folder = 'owed'\n{more}"
    )


def test_a_gateway_is_ready_while_quorums_answer(tmp_path: Path) -> None:
    nodes = [node(tmp_path) for _ in range(3)]
    with ExitStack() as stack:
        for each in nodes:
            stack.enter_context(running(each))
        server = stack.enter_context(running(gateway(tmp_path, settings=replicated(nodes))))
        names = [each.address for each in nodes]
        assert health(server) == (200, {"ready": True, "stores": dict.fromkeys(names, "ok")})
        nodes[0].pause()  # it accepts connections, and is silent
        silent = "no answer within 0.8 s"
        said = lambda document: document["stores"][names[0]] == silent  # noqa: E731
        wait_until(lambda: is_said(server, 200, said), "one of three may be silent")
        server.put("a", b"x")
        nodes[1].kill()
        wait_until(lambda: health(server)[0] == 503, "two of three are too many")
        wanted = "1 of the 3 stores answer, and 2 have to"
        assert health(server)[1]["error"] == wanted
        assert server.request("GET", "/health/live").status == 200
        assert server.put("b", b"x").status == 504
        found = scraped(server)
        assert [value(found, "sfss_store_up", store=name) for name in names] == [0, 0, 1]
        failed = {"store": names[1], "operation": "set", "outcome": "error"}
        assert value(found, "sfss_store_operations_total", **failed) > 0
        assert value(found, "sfss_owed_writes") > 0
        nodes[0].resume()
        wait_until(lambda: health(server)[0] == 200, "two of three are enough")


@pytest.mark.parametrize("placement", ["jump", "groups"])
def test_one_shard_that_is_down_is_told_and_makes_nobody_unready(
    tmp_path: Path, placement: str
) -> None:
    servers = [memcached(tmp_path) for _ in range(2)]
    shards = [f"s{number} {each.address}" for number, each in enumerate(servers)]
    with ExitStack() as stack:
        for each in servers:
            stack.enter_context(running(each))
        more = f"placement = '{placement}'\nshards = {shards}\n"
        settings = replicated([], more).replace("stores = []\n", "")
        if placement == "groups":
            settings = settings.replace("'native'", "'fetch'")
        server = stack.enter_context(running(gateway(tmp_path, settings=settings)))
        assert health(server)[0] == 200
        servers[0].kill()
        down = lambda document: document["stores"][servers[0].address] != "ok"  # noqa: E731
        wait_until(lambda: is_said(server, 200, down), "the other shard can be used")
        servers[1].kill()
        wait_until(lambda: health(server)[0] == 503, "nothing can be used")
        assert "s0" in health(server)[1]["error"]
        assert "s1" in health(server)[1]["error"]


def test_a_gateway_over_one_server_is_ready_while_that_answers(tmp_path: Path) -> None:
    server = memcached(tmp_path)
    settings = f"[cluster]\nkind = 'nodes'\n[memcached]\nservers = ['{server.address}']\n"
    with running(server), running(gateway(tmp_path, settings=settings)) as front:
        assert health(front)[0] == 200  # health is among the faces that are shown by default
        server.kill()
        wait_until(lambda: health(front)[0] == 503, "the only server is away")
        assert health(front)[1]["error"] == "no store answers"


def test_a_worker_that_drains_is_not_ready(tmp_path: Path) -> None:
    with running(gateway(tmp_path, settings=SETTINGS)) as server:
        with closing(server.connect()) as connection:
            assert ask(connection, "GET", "/health/ready").status == 200
            server.send(signal.SIGTERM)
            wait_until(lambda: not listens(server.port), "nobody is taken in any more")
            answer: Answer = ask(connection, "GET", "/health/ready")
        assert answer.status == 503
        assert answer.json()["error"] == "this process is about to end"


def test_lines_are_gone_on_with_by_the_next_writer() -> None:
    cells = memoryview(bytearray(CELLS * 8)).cast("Q")
    Timings(cells).note(("a", "b"), 0.0004)
    heir = Timings(cells)
    heir.note(("a", "b"), 0.0005)
    heir.note(("a", "b"), 0.00051)
    heir.note(("a", "ü" * 500), 11)
    first, second = read(cells)
    assert first.name == ("a", "b")
    assert first.counts[:3] == (2, 1, 0)
    assert first.sum_us == 400 + 500 + 510
    assert second.name[1].startswith("ü" * 90)
    assert second.counts[-1] == 1


def test_what_finds_no_line_is_counted_all_the_same() -> None:
    cells = memoryview(bytearray(CELLS * 8)).cast("Q")
    timings = Timings(cells)
    for number in range(LINES + 9):
        timings.note((str(number),), 1)
    lines = list(read(cells))
    assert len(lines) == LINES
    assert lines[-1].name == ()
    assert sum(lines[-1].counts) == 10
    assert sum(sum(line.counts) for line in lines) == LINES + 9


def test_the_short_way_counts_as_the_long_one() -> None:
    board = Board(2)
    for row in range(2):
        counters = board.row(row)
        counters.start(row + 1)
        counters.remembered("native", 5)
        counters.short("native", 5, 0.0001)
        counters.short("native", 5, 0.2)
        counters.request(200, 0, 5)
        counters.took("native", "GET", 200, 0.0001)
    line = board.timings()["request", "native", "GET", "200"]
    assert sum(line.counts) == 8
    assert (line.counts[0], line.sum_us) == (6, 2 * 200_200)
    assert len(line.counts) == SUM
    assert board.statuses() == {"200": 8}
    assert board.totals()["sent_bytes"] == 40


def logged(server: Gateway, name: str) -> list[dict[str, Any]]:
    """Return the objects that the logger ``name`` has written; every line has to be one."""
    lines = [json.loads(line) for line in server.output().splitlines()]
    assert all({"time", "level", "process", "logger"} <= line.keys() for line in lines)
    return [line for line in lines if line["logger"] == name]


def test_logs_are_objects_if_so_set(tmp_path: Path) -> None:
    settings = (
        "[server]\nlog_format = 'json'\naccess_log = true\nslow_request_ms = 1\n"
        "[embedded]\nfolder = 'store'\n"
    )
    agent = {"User-Agent": 'a"b\\\xe4', "Referer": "r", "X-Request-ID": "of-mine"}
    with running(gateway(tmp_path, settings=settings)) as server:
        server.put("a", b"12345")
        answer = server.request("GET", "/file?path=n%22o", headers=agent)
        assert answer.headers["x-request-id"] == "of-mine"
        server.request("GET", "/file?path=a", headers={"X-Request-ID": "2"})
        made = server.request("GET", "/file?path=none").headers["x-request-id"]
        wait_until(lambda: len(logged(server, "sfss.access")) == 4, "all are logged")
        put, absent, found, last = logged(server, "sfss.access")
        assert (put["request"], put["status"]) == ("PUT /file?path=a HTTP/1.1", 200)
        assert put["seconds"] > 0
        assert absent["request_id"] == "of-mine"
        assert (absent["agent"], absent["referer"]) == ('a"b\\\udce4', "r")
        assert (found["request_id"], found["sent_bytes"]) == ("2", 5)
        assert last["request_id"] == made
        assert logged(server, "gunicorn.error")[0]["message"].startswith("Starting gunicorn")


def test_an_object_in_the_log_is_one_line_whatever_is_in_it() -> None:
    try:
        raise ValueError("a\nb\u2028")
    except ValueError:
        failure = sys.exc_info()
    record = logging.LogRecord("x", logging.ERROR, "", 1, "%s\r\nc", ("\udce4",), failure)
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)
    assert (found["message"], found["level"]) == ("\udce4\r\nc", "error")
    assert found["error"].endswith("ValueError: a\nb\u2028")


def test_what_is_slow_is_logged(tmp_path: Path) -> None:
    server = memcached(tmp_path)
    settings = (
        f"[cluster]\nkind = 'nodes'\n[memcached]\nservers = ['{server.address}']\ntimeout_s = 0.2\n"
        "[server]\nslow_request_ms = 100\n"
    )
    with running(server), running(gateway(tmp_path, settings=settings)) as front:
        front.put("quick", b"x")
        server.pause()
        answer = front.request("GET", "/file?path=a", headers={"X-Request-ID": "slow-one"})
        assert answer.status == 504
        said = 's for "GET /file?path=a HTTP/1.1", answered 504, request slow-one'
        wait_until(lambda: said in front.output(), "it is logged")


def test_what_is_slow_on_the_short_way_is_logged_and_measured(tmp_path: Path) -> None:
    server = memcached(tmp_path)
    settings = (
        f"[cluster]\nkind = 'nodes'\n[memcached]\nservers = ['{server.address}']\n"
        "timeout_s = 30.0\n"
        "[server]\nslow_request_ms = 100\nfaces = ['native', 'metrics']\n"
    )
    said = 's for "GET /file?path=a HTTP/1.1", answered 200, request slow-one'
    with running(server), running(gateway(tmp_path, settings=settings)) as front:
        front.put("a", b"x")
        with closing(front.connect()) as connection:
            # What a connection begins with may go the long way.
            ask(connection, "GET", "/file?path=a")
            server.pause()
            connection.request("GET", "/file?path=a", headers={"X-Request-ID": "slow-one"})
            began_s = time.monotonic()
            wait_until(lambda: time.monotonic() > began_s + 0.2, "it is slow")
            server.resume()
            answer = connection.getresponse()
            assert (answer.read(), answer.headers["X-Request-ID"]) == (b"x", "slow-one")
        wait_until(lambda: said in front.output(), "it is logged")
        labels = {"face": "native", "method": "GET"}
        found = scraped(front)
        assert value(found, "sfss_request_duration_seconds_sum", **labels) > 0.1
        asked = {"store": server.address, "operation": "get", "outcome": "ok"}
        assert value(found, "sfss_store_operations_total", **asked) <= 1


def test_nodes_are_told_for_which_request_they_are_asked(tmp_path: Path) -> None:
    web = nginx_node(tmp_path)
    conf, log = Path(web.command[web.command.index("-c") + 1]), tmp_path / "asked.log"
    form = "log_format asked '$request_method $http_x_request_id';"
    conf.write_text(conf.read_text().replace("access_log off;", f"{form} access_log {log} asked;"))
    settings = (
        "[cluster]\nkind = 'replicated'\n[replicated]\nplacement = 'mirror'\n"
        f"stores = ['http://{web.address}/']\nowed_folder = 'owed'\n"
    )
    with running(web), running(gateway(tmp_path, settings=settings)) as server:
        asked = {"X-Request-ID": "an-id"}
        for method, body in (("PUT", b"x"), ("GET", None), ("DELETE", None)):
            answer = server.request(method, "/file?path=a", body, asked)
            assert answer.status in (200, 204)
        made = server.request("GET", "/file?path=none").headers["x-request-id"]
        wait_until(lambda: f"GET {made}" in log.read_text(), "the node is told a made id")
        lines = log.read_text().splitlines()
        assert {"PUT an-id", "GET an-id", "DELETE an-id"} <= set(lines)
