"""The dashboard and the alert rules in conf/: what they ask for is there."""

import json
import re
from collections.abc import Iterator
from subprocess import DEVNULL, run
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.servers import CHECKOUT, SECRET, SFSS, gateway, node, running, s3, wait_until

CONF = CHECKOUT / "conf"
NAME = re.compile(r"\bsfss_[a-z_]+")
LABELS = re.compile(r"(sfss_[a-z_]+)\{([^}]*)\}")


def panels() -> list[Any]:
    """Return the panels of the dashboard."""
    dashboard = json.loads((CONF / "grafana.json").read_text())
    found: list[Any] = dashboard["panels"]
    return found


def rules() -> list[Any]:
    """Return the alert rules."""
    document = yaml.safe_load((CONF / "prometheus-alerts.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    """Yield all that is asked."""
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The names of all samples that gateways show, each with the names of its labels."""
    folder = tmp_path_factory.mktemp("conf")
    bucket, server = s3(folder), node(folder)
    faces = ["native", "objects", "metrics"]
    objects = (
        f"[server]\nfaces = {faces}\n[embedded]\nfolder = 'store'\n"
        f"[bucket]\nendpoint = '{bucket.url}'\nallow_http = true\n"
        "[objects]\nbucket = 's3://objects/'\ncapacity_bytes = 1000000\n"
    )
    copies = (
        "[server]\nfaces = ['native', 'metrics']\n[cluster]\nkind = 'replicated'\n"
        f"[replicated]\nstores = ['{server.address}']\ncopies = 1\n"
    )
    key = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET}
    found: dict[str, set[str]] = {}
    with running(bucket), running(server):
        bucket.make_bucket("objects")
        for settings in (objects, copies):
            with running(gateway(folder, settings=settings, environ=key)) as front:
                assert front.put("a", b"x").status == 200
                assert front.request("GET", "/nothing/here").status == 404
                scrub = [
                    *SFSS,
                    "scrub",
                    "--config",
                    front.command[front.command.index("--config") + 1],
                ]
                run(scrub, cwd=folder, env=front.environ, check=True, stdout=DEVNULL)
                wait_until(lambda: "lag_seconds_bucket" in page(front), "a worker has looked")
                for family in text_string_to_metric_families(page(front)):
                    for sample in family.samples:
                        found.setdefault(sample.name, set()).update(sample.labels)
    return found


def page(server: Any) -> str:
    """Return the metrics of a gateway."""
    text: str = server.request("GET", "/metrics").body.decode()
    return text


def test_what_is_asked_is_shown(shown: dict[str, set[str]]) -> None:
    asked = {name for text in expressions() for name in NAME.findall(text)}
    assert len(asked) > 12
    assert not asked - shown.keys()
    for text in expressions():
        for name, labels in LABELS.findall(text):
            used = set(re.findall(r"(\w+)=", labels)) - {"instance", "job"}
            assert used <= shown[name], (name, used)


def test_what_is_shown_is_in_the_document(shown: dict[str, set[str]]) -> None:
    text = (CHECKOUT / "docs" / "metrics.md").read_text()
    families = {re.sub("_(bucket|count|sum)$", "", name) for name in shown}
    assert not {name for name in families if name not in text}


def test_every_bracket_is_closed() -> None:
    for text in expressions():
        outside = re.sub(r'"[^"]*"', "", text)
        for opening, closing in ("()", "{}", "[]"):
            assert outside.count(opening) == outside.count(closing), text


def test_a_rule_says_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert re.fullmatch("[0-9]+[mh]", rule.get("for", "1m"))


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in panels()]
    assert len({(place["x"], place["y"]) for place in places}) == len(places)
    assert len({panel["id"] for panel in panels()}) == len(places)
