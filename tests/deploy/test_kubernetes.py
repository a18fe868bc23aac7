"""The manifests: by the schemas of Kubernetes, and by what they must hold together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.deploy.containers import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.29", "1.34")
CUSTOM = ("ray.io/v1", "monitoring.coreos.com/v1")
Manifest = dict[str, Any]


def read(part: str) -> list[Manifest]:
    return [
        manifest
        for path in sorted((FOLDER / part).glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text())
    ]


BASE = read("base")
SETS = {name: [*BASE, *read(name)] for name in ("cpu", "gpu")}


def of_kind(kind: str, manifests: list[Manifest] = BASE) -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m for m in manifests if m["kind"] == kind}


def pod_templates(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    for manifest in manifests:
        spec = manifest.get("spec", {})
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        if "template" in spec:
            yield name, spec["template"]["spec"]
        if manifest["kind"] == "RayCluster":
            yield f"{name} head", spec["headGroupSpec"]["template"]["spec"]
            for group in spec["workerGroupSpecs"]:
                yield f"{name} {group['groupName']}", group["template"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
def test_core_manifests_keep_to_the_schemas(version: str) -> None:
    seen = set()
    for manifest in [m for part in ("base", "cpu", "gpu") for m in read(part)]:
        if manifest["apiVersion"] not in CUSTOM:
            kubernetes_validate.validate(manifest, version, strict=True)
            seen.add(manifest["kind"])
    assert seen >= {
        "Deployment",
        "StatefulSet",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "Ingress",
        "Service",
    }
    wrong = of_kind("Deployment")["drmad-api"] | {"spec": {"replicas": "two"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


@pytest.mark.parametrize("name", SETS)
def test_pods_have_limits_probes_and_no_rights(name: str) -> None:
    for pod_name, pod in pod_templates(SETS[name]):
        assert pod["securityContext"]["runAsNonRoot"] is True, pod_name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, pod_name
            assert context["allowPrivilegeEscalation"] is False, pod_name
            assert context["capabilities"] == {"drop": ["ALL"]}, pod_name
            assert container["resources"]["limits"]["memory"], pod_name
            assert container["resources"]["requests"]["cpu"], pod_name
            if "Ray" not in pod_name:  # KubeRay adds those of its own
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            claims = {"data"} if "StatefulSet" in pod_name else set()
            assert mounted == {volume["name"] for volume in pod["volumes"]} | claims, pod_name


def test_front_end_is_several_and_schedulers_are_two() -> None:
    scaler = of_kind("HorizontalPodAutoscaler")["drmad-api"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == "drmad-api"
    assert scaler["minReplicas"] >= 2
    assert "replicas" not in of_kind("Deployment")["drmad-api"]["spec"]  # the scaler's to say
    assert of_kind("Deployment")["drmad-scheduler"]["spec"]["replicas"] == 2
    for name, budget in of_kind("PodDisruptionBudget").items():
        assert budget["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}


def test_selectors_find_their_pods() -> None:
    for kind in ("Deployment", "StatefulSet"):
        for name, manifest in of_kind(kind).items():
            wanted = manifest["spec"]["selector"]["matchLabels"]
            labels = manifest["spec"]["template"]["metadata"]["labels"]
            assert wanted.items() <= labels.items(), name
    named = {
        m["metadata"]["name"] for k in ("Deployment", "StatefulSet") for m in of_kind(k).values()
    }
    for name, service in of_kind("Service").items():
        assert service["spec"]["selector"]["app.kubernetes.io/name"] in named, name


@pytest.mark.parametrize("name", SETS)
def test_no_secret_stands_in_a_manifest_and_each_is_explained(name: str) -> None:
    assert not of_kind("Secret", SETS[name])
    page = (FOLDER / "README.md").read_text()
    text = "\n".join(
        path.read_text() for part in ("base", name) for path in (FOLDER / part).iterdir()
    )
    for secret in re.findall(r"secretKeyRef: \{name: (\S+),", text):
        assert secret in page
    for _, pod in pod_templates(SETS[name]):
        for variable in (v for c in pod["containers"] for v in c.get("env", [])):
            if re.search("PASSWORD|TOKEN|URL", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], variable


@pytest.mark.parametrize("name", SETS)
def test_ray_cluster_scales_survives_its_head_and_wants_a_token(name: str) -> None:
    (cluster,) = of_kind("RayCluster", SETS[name]).values()
    assert cluster["apiVersion"] == "ray.io/v1"
    spec = cluster["spec"]
    lock = (ROOT / "requirements.lock").read_text()
    assert f"ray=={spec['rayVersion']}\n" in lock
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    redis = spec["gcsFaultToleranceOptions"]
    assert redis["redisAddress"] == "drmad-redis:6379"
    assert redis["redisUsername"] == {"value": "ray"}
    assert redis["redisPassword"]["valueFrom"]["secretKeyRef"]["key"] == "ray-password"
    head = spec["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"  # no user code beside the head
    (group,) = spec["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] < group["maxReplicas"]
    (worker,) = group["template"]["spec"]["containers"]
    gpus = worker["resources"]["limits"].get("nvidia.com/gpu")
    assert gpus == ("1" if name == "gpu" else None)
    assert worker["image"].split("/")[-1].split(":")[0] == f"drmad-worker{'-gpu' * bool(gpus)}"
    assert group["template"]["spec"]["automountServiceAccountToken"] is False
    if gpus:
        assert group["template"]["spec"]["tolerations"]
    # What the schedulers connect to: KubeRay's service of the head, and the secret that it makes.
    scheduler = of_kind("Deployment")["drmad-scheduler"]["spec"]["template"]["spec"]
    (container,) = scheduler["containers"]
    service = f"{cluster['metadata']['name']}-head-svc:6379"
    assert service in container["command"][-1]
    token = next(v for v in container["env"] if v["name"] == "RAY_AUTH_TOKEN")
    expected = {"name": cluster["metadata"]["name"], "key": "auth_token"}
    assert token["valueFrom"]["secretKeyRef"] == expected


def test_service_monitor_reads_the_metrics_with_a_key() -> None:
    (monitor,) = of_kind("ServiceMonitor").values()
    (endpoint,) = monitor["spec"]["endpoints"]
    service = of_kind("Service")["drmad-api"]
    assert (
        monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    )
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert endpoint["path"] == "/metrics"
    assert endpoint["authorization"]["credentials"] == {"name": "drmad-metrics-key", "key": "key"}


def test_nothing_is_reached_that_is_not_named() -> None:
    policies = of_kind("NetworkPolicy")
    assert policies["default-deny"]["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    workers = policies["ray"]["spec"]["egress"]
    assert "drmad-redis" not in str(workers)
    assert "drmad-api" not in str(workers)
    for policy in policies.values():
        for rule in policy["spec"].get("egress", []):
            for peer in rule.get("to", []):
                if "ipBlock" in peer:
                    assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(peer["ipBlock"]["except"])


def test_ingress_ends_tls_and_does_not_buffer_streams() -> None:
    ingress = of_kind("Ingress")["drmad"]
    (host,) = ingress["spec"]["tls"][0]["hosts"]
    assert ingress["spec"]["rules"][0]["host"] == host
    api = of_kind("Deployment")["drmad-api"]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "DRMAD_ALLOWED_HOSTS", "value": host} in api["env"]
    annotations = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"


def test_files_that_the_readme_names_are_there() -> None:
    page = (FOLDER / "README.md").read_text()
    for name in re.findall(r"`?((?:base|\.\.)/[\w./-]+\.(?:yaml|sh))", page):
        assert (FOLDER / name).exists(), name
    assert Path(FOLDER / "cpu").is_dir()
