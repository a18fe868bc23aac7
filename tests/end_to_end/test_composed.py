"""The services of docker-compose.yml as processes, each in namespaces of its own."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.containers import Engine, can_contain, compose
from tests.deploy.test_compose import SECRETS


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if not can_contain():
        assert not os.environ.get("CI"), "CI must be able to make namespaces"
        pytest.skip("needs root on Linux: network, mount and process namespaces")
    folder = Path(tmp_path_factory.mktemp("compose"))
    for path in (folder, *folder.parents):
        if path.is_relative_to("/tmp") and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o011)
    (folder / "data").mkdir()
    engine = Engine(folder, compose(SECRETS | {"DRMAD_DATA": str(folder / "data")})["services"])
    yield engine
    engine.down()


JOB = """
name: composed
problem: {data: {name: digits, train: 200, valid: 100, test: 100, label_noise: 0.5}}
hyperparameters: [{kind: sample_weight}]
training: {steps: 1500, batch_size: 50}
hypergradient: {method: shortcut, horizon: 20}
meta: {iterations: 30}
resources: {cpus: 1}
"""


class Team:
    """Starts all but Redis, makes a key, and submits with it."""

    def __init__(self, engine: Engine) -> None:
        engine.prepare("ray-head").start()
        self._api = api = engine.prepare("api")
        api.start()
        assert api.process is not None
        assert api.process.wait(120) != 0, "it must not let others in before there is a key"
        assert "drmad keys create" in api.log.read_text()
        made = api.run("drmad", "keys", "create", "--tenant", "team", "--scope", "submit")
        assert made.returncode == 0, made.stderr
        api.environment["DRMAD_API_KEY"] = made.stdout.strip()  # of the commands below
        api.start()
        engine.containers["ray-head-1"].wait_until_healthy()
        engine.up("ray-driver")
        engine.prepare("scheduler").start()
        engine.up("ray-worker", 1)
        engine.containers["scheduler-1"].wait_until_healthy()
        api.wait_until_healthy()

    def drmad(self, *arguments: str) -> str:
        answer = self._api.run("drmad", *arguments, timeout_s=600.0)
        assert answer.returncode == 0, f"{answer.stderr} {self._api.log.read_text()[-3000:]}"
        return answer.stdout.strip()

    def submit(self) -> str:
        assert self._api.run("tee", "/tmp/job.yaml", stdin=JOB).returncode == 0
        return self.drmad("submit", "/tmp/job.yaml")

    def wait_for_commits(self, job_id: str, count: int) -> None:
        """Follow the job's events: one process, instead of one for each question."""
        command = self._api.inside(["drmad", "events", job_id])
        environment = self._api.environment
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as following:
            assert following.stdout is not None
            events = (json.loads(line)["type"] for line in following.stdout)
            commits = (kind for kind in events if kind == "iteration")
            assert len([*itertools.islice(commits, count)]) == count, self._api.log.read_text()
            following.terminate()

    def committed(self, job_id: str) -> int:
        iteration: int = self.show(job_id)["progress"]["iteration"]
        return iteration

    def show(self, job_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.drmad("show", job_id, "--output", "json"))
        return shown


@pytest.mark.full
def test_services_start_as_declared_and_a_job_outlives_its_worker(engine: Engine) -> None:
    engine.up("redis")
    team = Team(engine)
    scheduler = engine.containers["scheduler-1"]
    job_id = team.submit()
    team.wait_for_commits(job_id, 2)
    engine.containers["ray-worker-1"].terminate()
    assert team.committed(job_id) < 30, "the worker was lost too late"
    engine.prepare("ray-worker", 2).start()
    team.drmad("watch", job_id)
    job = team.show(job_id)
    assert (job["status"], job["tenant"], job["progress"]["iteration"]) == ("succeeded", "team", 30)
    assert "its scheduler was" not in json.dumps(job["transitions"])  # only the worker was lost
    doctor = scheduler.run("drmad", "doctor", "--json")
    assert doctor.returncode == 0, doctor.stdout
    found = {finding["subject"]: finding for finding in json.loads(doctor.stdout)}
    for subject in (
        "Redis",
        "append-only file",
        "eviction",
        "memory of Redis",
        "schema",
        "Ray's driver",
    ):
        assert found[subject]["level"] == "ok", found[subject]
    assert found["orphans"]["level"] == "ok", found["orphans"]
    logs = "".join(container.log.read_text() for container in engine.containers.values())
    assert [secret for secret in SECRETS.values() if secret in logs] == []
    claimed = [json.loads(line) for line in scheduler.log.read_text().splitlines() if "{" in line]
    assert job_id in [record.get("job_id") for record in claimed]


@pytest.mark.full
def test_four_replicas_over_three_machines_lose_one_and_end_with_the_right_history(
    engine: Engine,
) -> None:
    """Three raylets, each with an address of its own; one is lost with all that it has."""
    engine.up("redis")
    engine.prepare("ray-head").start()
    api = engine.prepare("api")
    made = api.run("drmad", "keys", "create", "--tenant", "team", "--scope", "submit")
    assert made.returncode == 0, made.stderr
    api.environment["DRMAD_API_KEY"] = made.stdout.strip()
    api.start()
    engine.containers["ray-head-1"].wait_until_healthy()
    engine.up("ray-driver")
    engine.prepare("scheduler").start()
    for number, cpus in ((1, 2), (2, 1), (3, 1)):
        join(engine, number, cpus)
    api.wait_until_healthy()

    def drmad(*arguments: str) -> str:
        answer = api.run("drmad", *arguments, timeout_s=600)
        log = engine.containers["scheduler-1"].log.read_text()[-3000:]
        assert answer.returncode == 0, f"{answer.stdout}{answer.stderr} {log}"
        return answer.stdout.strip()

    def history(job_id: str) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = json.loads(drmad("history", job_id, "--output", "json"))
        return records

    fields = yaml.safe_load(JOB) | {"meta": {"iterations": 12}}
    fields |= {"replicas": {"count": 4, "data": "disjoint", "placement": "spread"}}
    fields["training"]["batch_size"] = 20
    assert api.run("tee", "/tmp/job.yaml", stdin=yaml.safe_dump(fields)).returncode == 0
    # The nodes of head and scheduler have no torch: nothing of a job may end up there.
    assert "no problems found" in drmad("submit", "/tmp/job.yaml", "--check")
    job_id = drmad("submit", "/tmp/job.yaml")
    until(lambda: len(history(job_id)) >= 2, timeout_s=600)
    engine.containers["ray-worker-3"].kill()
    assert len(history(job_id)) < 12, "the worker was lost too late"
    join(engine, 4, 1)
    drmad("watch", job_id)
    undisturbed = drmad("submit", "/tmp/job.yaml")
    drmad("watch", undisturbed)
    disturbed, expected = history(job_id), history(undisturbed)
    assert [record["iteration"] for record in disturbed] == list(range(12))
    assert numbers(disturbed) == numbers(expected)
    nodes = [{figures["node"] for figures in record["replicas"]} for record in disturbed]
    assert {len(record["replicas"]) for record in disturbed} == {4}
    assert [len(nodes[0]), len(nodes[-1]), len(nodes[0] & nodes[-1])] == [3, 3, 2]
    warned = drmad("events", job_id)
    assert "replica_lost" in warned


def join(engine: Engine, number: int, cpus: int) -> None:
    command = engine.services["ray-worker"]["command"]
    (place,) = [n for n, part in enumerate(command) if part.startswith("--num-cpus=")]
    command[place] = f"--num-cpus={cpus}"
    engine.prepare("ray-worker", number).start()


def numbers(history: list[dict[str, Any]]) -> list[tuple[int, float, float]]:
    return [(r["iteration"], r["validation_loss"], r["hypergradient_norm"]) for r in history]


@pytest.mark.full
def test_head_of_ray_keeps_its_state_in_redis_under_a_user_of_its_own(engine: Engine) -> None:
    """As KubeRay starts it: what it may touch is enough for it, and is nothing of ours.

    A job outlives the head's restart, whose state the new head finds.
    """
    password = "r" * 32
    engine.services["redis"]["environment"]["RAY_REDIS_PASSWORD"] = password
    head = engine.services["ray-head"]
    head["environment"]["RAY_REDIS_ADDRESS"] = "redis:6379"
    head["command"] += ["--redis-username=ray", f"--redis-password={password}"]
    redis = engine.up("redis")
    team = Team(engine)
    script = f"""
import redis
store = redis.Redis(username="ray", password="{password}")
assert any(key.startswith(b"RAY") for key in store.scan_iter())
try:
    store.get("drmad:jobs")
except redis.exceptions.NoPermissionError:
    print("kept apart")
"""
    assert redis.run("python", "-c", script).stdout == "kept apart\n"
    job_id = team.submit()
    team.wait_for_commits(job_id, 2)
    before = nodes(engine)
    old_head, scheduler = engine.containers["ray-head-1"], engine.containers["scheduler-1"]
    old_head.terminate()
    old_head.start()
    old_head.wait_until_healthy()
    assert team.committed(job_id) < 30, "the head was lost too late"
    assert before & nodes(engine), "the new head must know the nodes of the old one"

    def ended() -> bool:
        assert scheduler.process is not None
        if scheduler.process.poll() is not None:  # as its restart policy says
            scheduler.start()
        return bool(team.show(job_id)["status"] == "succeeded")

    until(ended, 480.0)
    assert team.committed(job_id) == 30


def nodes(engine: Engine) -> set[str]:
    """The living nodes of the Ray cluster."""
    script = """
import ray
ray.init("ray-head:6381", log_to_driver=False, logging_level="error")
print(*(node["NodeID"] for node in ray.nodes() if node["Alive"]))
"""
    output = engine.containers["ray-head-1"].run("python", "-c", script)
    assert output.returncode == 0, output.stderr
    return set(output.stdout.split())


def until(holds: Callable[[], bool], timeout_s: float = 240.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)
