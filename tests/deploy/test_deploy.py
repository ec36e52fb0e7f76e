"""Deployment files: loopback ports, API keys, existing settings, commands and routes, and a dashboard of real metrics."""

import json
import re

import pytest
import yaml

from server.cli.main import COMMANDS
from server.settings import Settings
from server.telemetry import metrics
from tests.support.paths import ROOT

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
COMPOSE_PORT = 8000
BOARD = json.loads((ROOT / "deploy/grafana/tiller.json").read_text())


def test_services_are_reached_from_this_machine_only():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_server_that_others_can_reach_has_a_key_and_the_same():
    servers = [s for s in COMPOSE["services"].values() if s.get("command", [])[:2] == ["tiller", "serve"]]
    assert len(servers) == 2
    assert len({server["environment"]["TILLER_ADMIN_KEY"] for server in servers}) == 1


def test_services_name_settings_commands_and_files_that_there_are():
    for service in COMPOSE["services"].values():
        for name in service.get("environment", {}):
            assert name.removeprefix("TILLER_").lower() in Settings.model_fields
        if service.get("image", "").partition(":")[0] == "tiller":
            assert service["command"][1] in COMMANDS
        for volume in service.get("volumes", []):
            place = volume.split(":")[0]
            assert (ROOT / place).exists() if place.startswith(".") else place in COMPOSE["volumes"]


@pytest.mark.parametrize("panel", BOARD["panels"], ids=lambda p: p["title"])
def test_dashboard_asks_for_figures_that_the_server_has(panel):
    known = {s.name for family in metrics.REGISTRY.collect() for s in family.samples}
    known |= {f"{family.name}_{end}" for family in metrics.REGISTRY.collect() for end in ("total", "bucket")}
    known |= {family.name for family in metrics.REGISTRY.collect()}
    for target in panel["targets"]:
        named = set(re.findall(r"(?:tiller|http)_[a-z0-9_]+", target["expr"]))
        assert named
        assert named <= known


def test_a_cluster_asks_the_routes_that_there_are():
    parts = {part["kind"]: part for part in yaml.safe_load_all((ROOT / "deploy/k8s/tiller.yaml").read_text())}
    container = parts["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    asked = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert asked == {"/health", "/livez"}
    assert container["ports"][0]["containerPort"] == COMPOSE_PORT
    assert parts["Service"]["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    claim = parts["Deployment"]["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert claim == parts["PersistentVolumeClaim"]["metadata"]["name"]


def test_both_images_install_the_same_and_the_one_for_gpus_asks_for_one():
    plain, cuda = ((ROOT / name).read_text() for name in ("Dockerfile", "Dockerfile.cuda"))
    assert re.findall(r"torch==[\d.]+", plain)[0] in cuda
    assert {*re.findall(r"^COPY (\w+) \1$", plain, flags=re.M)} <= {*re.findall(r"^COPY (\w+) \1$", cuda, flags=re.M)}
    for line in ("USER 1000", "HEALTHCHECK", "STOPSIGNAL SIGTERM", 'CMD ["tiller", "serve"]', "requirements.lock"):
        assert line in cuda
    gpu = COMPOSE["services"]["server-gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["build"]["dockerfile"] == "Dockerfile.cuda"
    assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
