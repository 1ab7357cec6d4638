"""What conf/ has for machines that run sfss: systemd, containers, Kubernetes."""

import re
import socket
from pathlib import Path
from typing import Any

import yaml

from sfss.config import DECLARATIONS
from tests.servers import CHECKOUT, gateway, running

CONF = CHECKOUT / "conf"


def names_of_settings() -> set[str]:
    """Return how settings are called in the environment."""
    return {f"SFSS_{key.upper().replace('.', '_')}" for key in DECLARATIONS}


def test_systemd_is_told_when_the_service_is_ready(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        server = gateway(tmp_path)
        server.environ = {**server.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        with running(server):
            told = b""
            while b"READY=1" not in told:
                told += manager.recv(1000) + b"\n"
            assert server.request("GET", "/health/ready").status == 200


def test_the_unit_knows_the_command() -> None:
    unit = (CONF / "sfss.service").read_text()
    (start,) = re.findall(r"(?m)^ExecStart=/opt/sfss/bin/sfss (.*)", unit)
    assert start == "serve --config /etc/sfss/sfss.toml"
    assert "Type=notify" in unit


def manifests() -> dict[str, dict[str, Any]]:
    """Return what the manifest has, by kind."""
    found = yaml.safe_load_all((CONF / "kubernetes.yml").read_text())
    return {each["kind"]: each for each in found}


def test_the_manifest_sets_what_there_is_to_be_set() -> None:
    pod = manifests()["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    names = {each["name"] for each in container["env"]} | set(manifests()["Secret"]["stringData"])
    assert names <= names_of_settings()
    mounted = {each["mountPath"] for each in container["volumeMounts"]}
    folders = [each["value"] for each in container["env"] if each["name"].endswith("_FOLDER")]
    assert all(str(Path(folder).parent) in mounted for folder in folders)
    probes = [container[f"{name}Probe"]["httpGet"]["path"] for name in ("liveness", "readiness")]
    assert probes == ["/health/live", "/health/ready"]
    (port,) = container["ports"]
    assert port["containerPort"] == DECLARATIONS["server.port"].default


def test_the_image_sets_what_there_is_to_be_set() -> None:
    text = (CONF / "Dockerfile").read_text()
    (line,) = re.findall(r"(?m)^ENV (.*)", text)
    assert {each.partition("=")[0] for each in line.split()} <= names_of_settings()
    copied = re.findall(r"(?m)^COPY (.*) /src/\S*$", text)
    for name in " ".join(copied).split():
        assert (CHECKOUT / name).exists(), name
