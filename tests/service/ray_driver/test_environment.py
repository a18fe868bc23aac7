"""Which variables of the scheduler's environment reach user code."""

from __future__ import annotations

from drmad_service.ray_driver.environment import worker_environment

CREDENTIALS = {
    "DRMAD_REDIS_URL": "redis://:password@host",
    "DRMAD_REDIS_URL_FILE": "/home/redis-url",
    "DRMAD_KEY_FILE": "/home/key",
    "DRMAD_WEBHOOK_SECRET_FILE": "/home/webhook-secret",
    "DRMAD_API_KEY": "drmad_x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "GITHUB_TOKEN": "x",
    "HF_TOKEN": "x",
    "OTEL_EXPORTER_OTLP_HEADERS": "authorization=x",
    "SSH_AUTH_SOCK": "/run/agent",
    "SOMETHING_NEW": "x",
}
NEEDED = {
    "PATH": "/bin",
    "HOME": "/home/user",
    "PYTHONPATH": "/src",
    "CUDA_VISIBLE_DEVICES": "0",
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "token",
    "LC_ALL": "C.UTF-8",
}


def test_workers_receive_what_the_list_names_and_no_credential() -> None:
    assert worker_environment(CREDENTIALS | NEEDED) == NEEDED


def test_the_operator_adds_variables_by_name() -> None:
    given = worker_environment(CREDENTIALS | NEEDED, ["HF_TOKEN", "NOT_SET"])
    assert given == NEEDED | {"HF_TOKEN": "x"}
