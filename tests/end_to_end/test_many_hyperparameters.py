"""A penalty for each of ten million weights: committed, read and paged through the service."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from drmad_client.records.status import JobStatus
from tests.end_to_end.running import Service, descendants
from tests.end_to_end.test_lifecycle import done
from tests.service.api.test_download_memory import resident_bytes

HIDDEN = 3150
COUNT = 64 * HIDDEN + HIDDEN * HIDDEN + HIDDEN * 10
SPEC: dict[str, Any] = {
    "problem": {
        "data": {"name": "digits", "train": 100, "valid": 50, "test": 0},
        "model": {"name": "mlp", "hidden": [HIDDEN, HIDDEN]},
    },
    "hyperparameters": [{"kind": "l2", "per": "weight"}],
    "training": {"steps": 2, "batch_size": 10, "learning_rate": 0.01},
    "hypergradient": {"method": "stored"},
    "meta": {"iterations": 2, "confirmation": 0.0},
}
MOST_BYTES = 60 << 20
"""What the API may grow by: less than two copies of the vector, which has 41 MB."""


@pytest.mark.full
def test_ten_million_hyperparameters_are_committed_read_and_paged(tmp_path: Path) -> None:
    service = Service(tmp_path / "home")
    service.start()
    try:
        with service.client() as client:
            job = client.jobs.create(SPEC)
            ended = done(client, job)
            assert ended.status is JobStatus.SUCCEEDED, ended.error
            (info,) = client.jobs.retrieve(job.id).record.hyperparameters
            assert info.shape == [COUNT]
            for record in client.jobs.history(job.id):
                print({name: round(seconds, 2) for name, seconds in record.seconds.items()})
        assert service.process is not None
        found = descendants(service.process.pid)
        (api,) = [pid for pid, command in found.items() if "drmad_client serve" in command]
        Path(f"/proc/{api}/clear_refs").write_text("5")  # the peak begins anew
        before = resident_bytes(api, "VmRSS")
        began = time.perf_counter()
        fetched = service.run("fetch", job.id, "--to", str(tmp_path / "fetched"))
        assert fetched.returncode == 0, fetched.stderr
        (values,) = load_file(tmp_path / "fetched" / "hyperparameters.safetensors").values()
        print(f"read in {time.perf_counter() - began:.1f} s")
        assert values.size == COUNT
        with service.http() as http:
            address = f"/v1/jobs/{job.id}/hyperparameters/{info.name}"
            began = time.perf_counter()
            page = http.get(address, params={"offset": COUNT - 1000, "limit": 1000}).json()
            print(f"a page in {time.perf_counter() - began:.3f} s")
            whole = http.get(f"/v1/jobs/{job.id}/hyperparameters").json()["arrays"][0]
        tail = np.exp(values.ravel()[-1000:])
        assert np.allclose(page["values"], tail)
        assert page["has_more"] is False
        assert whole["minimum"] <= tail.min() <= tail.max() <= whole["maximum"]
        grown = resident_bytes(api, "VmHWM") - before
        print(f"the API grew by {grown / 1e6:.0f} MB")
        assert grown < MOST_BYTES
        folder = service.home / "data" / "jobs" / job.id / "vectors"
        assert sum(path.stat().st_size for path in folder.iterdir()) > 4 * COUNT
    finally:
        service.interrupt()
