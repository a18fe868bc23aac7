from __future__ import annotations

import httpx

from drmad_client.http import local_key
from tests.end_to_end.running import Service


def test_no_secret_is_in_the_logs(service: Service) -> None:
    key = service.key
    assert key is not None
    wrong = "drmad_" + "0" * 12 + "_" + "w" * 43
    with service.http() as http, httpx.Client(base_url=service.url) as stranger:
        assert http.get("/v1/jobs").is_success
        bearer = {"Authorization": f"Bearer {wrong}"}
        assert stranger.get("/v1/jobs", headers=bearer).status_code == 401
        assert stranger.post("/sign-in", json={"key": wrong}).status_code == 401
        assert stranger.post("/sign-in", json={"key": key}).status_code == 204
        token = next(iter(stranger.cookies.values()))
        assert stranger.get("/v1/jobs").is_success
    made = service.run("keys", "create", "--tenant", "logs", "--scope", "read").stdout.strip()
    with httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {made}"}) as reader:
        assert reader.get("/v1/jobs").is_success
    assert made.split("_")[1] in service.run("keys", "list").stdout
    service.run("keys", "revoke", made.split("_")[1])
    assert made.split("_")[1] not in service.run("keys", "list").stdout
    signing = (service.home / "webhook-secret").read_text().strip()
    secrets = {local_key.path(service.home).read_text().strip(), key, wrong, token, made, signing}
    logs = [path for path in service.home.rglob("*.log") if path.is_file()]
    assert {"serve.log", "schedule.log"} <= {path.name for path in logs}
    for path in logs:
        text = path.read_text(errors="replace")
        assert not [secret[:12] for secret in secrets if secret in text], path
