"""Kubernetes manifests: valid, and consistent with the service that they run."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any, cast

import kubernetes_validate
import pytest
import yaml
from fastapi.routing import APIRoute

from polytask.model_store import DEFAULT_STORE
from polytask.model_store.versions import parse_reference, resolve
from polytask.service.config.settings import SHUTDOWN_S, Settings, all_settings
from polytask.service.observability.metrics import Metrics
from polytask.service.processes.child_process import SHUTDOWN_MARGIN_S
from polytask.service.versions.served import Versions
from polytask.service.web.middleware.authentication import AuthenticationMiddleware
from polytask.service.web.routes.operations import operation_routes
from tests.deploy.support.rendered import (
    EXAMPLE,
    KUBERNETES,
    RENDERED,
    ROOT,
    SERVICES,
    Object,
    container,
    of_kind,
    one,
    pod,
    rendered,
    settings,
    spec,
)
from tests.docker.test_compose import OF_THE_IMAGE
from tests.operations.support.exported import RULES, exported
from tests.support import tiny

_DOCKERFILE = (ROOT / "docker" / "service.Dockerfile").read_text(encoding="utf-8")
_GRAFANA = ROOT / "docker" / "grafana"
_OTHERS = {"PrometheusRule", "ServiceMonitor"}
"""Kinds of the Prometheus operator, of which Kubernetes has no schema."""


@pytest.mark.parametrize("name", RENDERED)
@pytest.mark.parametrize("kubernetes", ["1.30", "1.37"])
def test_every_object_is_valid(name: str, kubernetes: str) -> None:
    """Every object has only fields that Kubernetes knows."""
    for found in rendered(name):
        if found["kind"] not in _OTHERS:
            kubernetes_validate.validate(found, kubernetes, strict=True)


@pytest.mark.parametrize("name", SERVICES)
def test_settings_are_those_of_the_service(name: str) -> None:
    """Every variable is a setting of the service with a valid value."""
    given = settings(name)
    assert given.keys() <= {setting.env_name for setting in all_settings()} - OF_THE_IMAGE
    Settings.from_environment({key: value for key, value in given.items() if not key.endswith("_FILE")})


@pytest.mark.parametrize("name", SERVICES)
def test_replicas_serve_one_version(name: str) -> None:
    """The version has a number, because replicas start at different times; variables of Services are off."""
    _, number = parse_reference(settings(name)["POLYTASK_MODEL"])
    assert number is not None
    assert pod(name)["enableServiceLinks"] is False


@pytest.mark.parametrize("name", ["overlays/cpu", "overlays/gpu"])
def test_the_image_has_the_version(name: str) -> None:
    """Without a volume the served version is the embedded one."""
    assert resolve(DEFAULT_STORE, settings(name)["POLYTASK_MODEL"]).is_dir()


@pytest.mark.parametrize("name", SERVICES)
def test_probes_ask_for_what_there_is(name: str) -> None:
    """Probes use paths of the service that need no key, and only readiness depends on the device."""
    routes = operation_routes(cast("Versions", None), bytes).routes
    known = {route.path for route in routes if isinstance(route, APIRoute)}
    probes = {kind: container(name)[kind]["httpGet"] for kind in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startupProbe": "/livez",
        "readinessProbe": "/readyz",
        "livenessProbe": "/livez",
    }
    keyed = AuthenticationMiddleware(
        cast("Any", None), tiny_keys(), cast("Versions", None), Metrics(tiny.tasks()).requests
    )
    for probe in probes.values():
        assert probe["path"] in known
        assert keyed._admit({"type": "http", "path": probe["path"], "headers": []}) is None


def tiny_keys() -> tuple[Any, ...]:
    """The keys of a service that has one key."""
    return Settings(api_keys=f'shop = {{ sha256 = "{"0" * 64}" }}').keys


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_the_same(name: str) -> None:
    """Container, Service and network policy refer to the port on which the service listens, by its name."""
    (port,) = container(name)["ports"]
    (offered,) = spec(one(name, "Service"))["ports"]
    ((allowed,),) = [rule["ports"] for rule in spec(one(name, "NetworkPolicy"))["ingress"]]
    assert port["containerPort"] == offered["port"] == Settings().port
    assert f"EXPOSE {port['containerPort']}\n" in _DOCKERFILE
    assert offered["targetPort"] == allowed["port"] == port["name"]
    assert {container(name)[kind]["httpGet"]["port"] for kind in container(name) if kind.endswith("Probe")} == {
        port["name"]
    }


@pytest.mark.parametrize("name", SERVICES)
def test_what_was_accepted_is_answered(name: str) -> None:
    """The grace period of a pod covers its removal from load balancing and the longest shutdown of the service."""
    seconds = int(container(name)["lifecycle"]["preStop"]["exec"]["command"][-1])
    deadline_s = float(settings(name).get("POLYTASK_DEADLINE_S", Settings().deadline_s))
    at_most_s = deadline_s + max(SHUTDOWN_MARGIN_S, 3 * SHUTDOWN_S)  # connections, and two versions one after the other
    assert seconds >= 5
    assert pod(name)["terminationGracePeriodSeconds"] >= seconds + at_most_s


@pytest.mark.parametrize("name", SERVICES)
def test_a_rollout_takes_no_replica_away(name: str) -> None:
    """A rollout starts a new pod before it ends an old one, and one node is drained at a time."""
    assert spec(one(name, "Deployment"))["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert spec(one(name, "PodDisruptionBudget"))["maxUnavailable"] == 1


def test_images_are_of_this_release() -> None:
    """The image tags of Kubernetes and Compose equal the version of the package."""
    compose = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("compose.yaml", "compose.gpu.yaml")}
    for name, file, variant in (
        ("overlays/cpu", "compose.yaml", ""),
        ("store", "compose.yaml", ""),
        ("overlays/gpu", "compose.gpu.yaml", "-gpu"),
    ):
        image = container(name)["image"]
        assert image == f"polytask:{version('polytask')}{variant}"
        assert f"${{SERVICE_IMAGE:-{image}}}" in compose[file]


@pytest.mark.parametrize("name", RENDERED)
def test_pods_may_do_nothing(name: str) -> None:
    """Pods run as the image's user, write to memory only, have no token, and meet the `restricted` standard."""
    (user,) = re.findall(r"useradd --uid (\d+)", _DOCKERFILE)
    own = pod(name)["securityContext"]
    assert own["runAsNonRoot"] is True
    assert own["runAsUser"] == own["runAsGroup"] == own["fsGroup"] == int(user)
    assert own["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod(name)["automountServiceAccountToken"] is False
    for volume in pod(name)["volumes"]:
        assert volume.keys() & {"emptyDir", "secret", "persistentVolumeClaim"}
        assert volume.get("emptyDir", {"medium": "Memory"})["medium"] == "Memory"


@pytest.mark.parametrize("name", RENDERED)
def test_cores_and_memory_are_bounded(name: str) -> None:
    """Every container has limits of cores and memory, and a service requests all of its limit."""
    resources = container(name)["resources"]
    assert {"cpu", "memory"} <= resources["limits"].keys()
    assert name == "store" or resources["limits"] == resources["requests"]


def selectors(name: str) -> list[Object]:
    """All label selectors of the service's pods."""
    deployment, budget, policy = (
        spec(one(name, kind)) for kind in ("Deployment", "PodDisruptionBudget", "NetworkPolicy")
    )
    spread = [rule["labelSelector"] for rule in pod(name)["topologySpreadConstraints"]]
    chosen = [deployment["selector"], budget["selector"], policy["podSelector"], *spread]
    return [selector["matchLabels"] for selector in chosen] + [spec(one(name, "Service"))["selector"]]


@pytest.mark.parametrize("name", SERVICES)
def test_all_choose_the_pods_of_the_service(name: str) -> None:
    """All selectors match the pods of the service and not that of the store."""
    labels = spec(one(name, "Deployment"))["template"]["metadata"]["labels"]
    others = one("store", "Pod")["metadata"]["labels"]
    for selector in selectors(name):
        assert selector
        assert selector.items() <= labels.items()
        assert not selector.items() <= others.items()


def test_versions_come_from_the_volume_of_the_store() -> None:
    """Store and service mount the same claim at the store of the image, the service read-only."""
    (store,) = re.findall(r"POLYTASK_STORE=(\S+)", _DOCKERFILE)
    claim = one("store", "PersistentVolumeClaim")["metadata"]["name"]
    for name, read_only in (("store", False), (EXAMPLE, True)):
        (volume,) = (each for each in pod(name)["volumes"] if "persistentVolumeClaim" in each)
        (mount,) = (each for each in container(name)["volumeMounts"] if each["name"] == volume["name"])
        assert volume["persistentVolumeClaim"]["claimName"] == claim
        assert mount["mountPath"] == store
        assert mount.get("readOnly", False) is read_only


def test_without_its_keys_no_pod_starts() -> None:
    """The Secret with the keys is required and the setting names its file; otherwise the service would be open."""
    (volume,) = (each for each in pod(EXAMPLE)["volumes"] if "secret" in each)
    (mount,) = (each for each in container(EXAMPLE)["volumeMounts"] if each["name"] == volume["name"])
    assert "optional" not in volume["secret"]
    assert settings(EXAMPLE)["POLYTASK_API_KEYS_FILE"] == f"{mount['mountPath']}/keys.toml"


def test_the_operator_gets_the_rules_of_prometheus() -> None:
    """The PrometheusRule equals the rules file; otherwise `make rules` was not run."""
    assert spec(one(EXAMPLE, "PrometheusRule")) == yaml.safe_load(RULES.read_text(encoding="utf-8"))


def test_prometheus_finds_the_service() -> None:
    """The ServiceMonitor selects the Service by label and port, under the job of the rules and at the interval of Compose."""
    monitor, service = spec(one(EXAMPLE, "ServiceMonitor")), one(EXAMPLE, "Service")
    labels = service["metadata"]["labels"]
    (job,) = set(re.findall(r'job="(\w+)"', RULES.read_text(encoding="utf-8")))
    compose = yaml.safe_load(RULES.with_name("prometheus.yml").read_text(encoding="utf-8"))
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == job
    assert monitor["endpoints"] == [
        {
            "port": spec(service)["ports"][0]["name"],
            "path": "/metrics",
            "interval": compose["global"]["scrape_interval"],
        }
    ]


def test_grafana_gets_all_dashboards() -> None:
    """The ConfigMaps hold the dashboards of Compose and their data source, with the labels of the sidecar."""
    maps = {found["metadata"]["name"]: found for found in of_kind(EXAMPLE, "ConfigMap")}
    boards, source = maps["polytask-dashboards"], maps["polytask-datasource"]
    assert boards["data"] == {
        path.name: path.read_text(encoding="utf-8") for path in (_GRAFANA / "dashboards").glob("*.json")
    }
    assert boards["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert source["metadata"]["labels"]["grafana_datasource"] == "1"
    compose = yaml.safe_load((_GRAFANA / "provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    (here,) = yaml.safe_load(source["data"]["polytask.yaml"])["datasources"]
    assert here["uid"] == compose["datasources"][0]["uid"]


def test_the_autoscaler_measures_what_is_exported() -> None:
    """The autoscaler uses metrics that the service exports and the adapter's rule names, and the deployment sets no replicas."""
    autoscaler = spec(one(EXAMPLE, "HorizontalPodAutoscaler"))
    adapter = yaml.safe_load((KUBERNETES / "components/autoscaling/adapter-values.yaml").read_text(encoding="utf-8"))
    (rule,) = adapter["rules"]["custom"]
    (names,) = re.findall(r'__name__=~"([^"]+)"', rule["seriesQuery"])
    measured = {metric["pods"]["metric"]["name"] for metric in autoscaler["metrics"]}
    assert measured == set(names.split("|"))
    assert measured <= exported()
    assert autoscaler["scaleTargetRef"]["name"] == one(EXAMPLE, "Deployment")["metadata"]["name"]
    assert "replicas" not in spec(one(EXAMPLE, "Deployment"))


def test_the_page_names_what_there_is() -> None:
    """Folders of `deploy/kubernetes` in docs/deploying.md exist, and each is described there."""
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    for folder in re.findall(r"deploy/kubernetes/([\w/-]+)", page):
        assert (KUBERNETES / folder).is_dir()
    folders = {str(path.parent.relative_to(KUBERNETES)) for path in KUBERNETES.rglob("kustomization.yaml")}
    assert set(re.findall(r"^\| `([\w/]+)` \|", page, re.MULTILINE)) >= folders
