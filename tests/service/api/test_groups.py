"""Groups over HTTP: one table, one cancel, and only for those who may; histories as Parquet."""

from __future__ import annotations

import io
import sys

import httpx
import pyarrow.parquet
import pytest

from drmad_client.export.job_folder import history_rows
from drmad_client.records.meta_iteration import MetaIteration
from drmad_client.spec.groups import variants
from drmad_client.spec.job import JobSpec
from drmad_service.api.auth.api_keys import Access, Scope
from drmad_service.store import Store
from drmad_service.store.layout.state_machine import Action
from tests.service.api.test_owners import key_of
from tests.service.api.test_tenants import access, locked
from tests.service.store.test_store import started, step

__all__ = ["access", "locked"]

pytestmark = pytest.mark.anyio


async def test_a_group_is_one_table_and_one_cancel(
    api: httpx.AsyncClient, store: Store, spec: JobSpec
) -> None:
    body = spec.model_dump(mode="json")
    specs = variants(body, "g", seeds=2, sweep=["training.learning_rate=0.01,0.1"])
    ids = [(await store.create(JobSpec.model_validate(each)))[0].id for each in specs]
    await store.create(spec)
    await store.cancel(ids[0])
    await api.patch(f"/v1/jobs/{ids[0]}", json={"archived": True})
    group = (await api.get("/v1/groups/g")).json()
    assert group["jobs"] == {"cancelled": ids[:1], "queued": ids[1:]}
    assert [(row["setting"], row["jobs"]) for row in group["rows"]] == [
        ({"training.learning_rate": "0.01"}, ids[:2]),
        ({"training.learning_rate": "0.1"}, ids[2:]),
    ]
    ended = await api.post("/v1/groups/g/cancel")
    assert (ended.status_code, ended.json()["jobs"]) == (200, {"cancelled": ids})
    unknown = await api.get("/v1/groups/h")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "group_not_found")
    assert (await api.get("/v1/groups/g?limit=3")).status_code == 422


async def test_a_group_with_another_keys_job_is_not_cancelled_in_part(
    locked: httpx.AsyncClient, access: Access, store: Store, spec: JobSpec
) -> None:
    mine, my_key = await key_of(access, Scope.SUBMIT)
    _, stranger = await key_of(access, Scope.MANAGE, "b")
    of_group = spec.model_copy(update={"tags": {"group": "g"}})
    await store.create(of_group, tenant="a", by=mine)
    await store.create(of_group, tenant="a", by="another")
    refused = await locked.post("/v1/groups/g/cancel", headers=my_key)
    assert (refused.status_code, refused.json()["code"]) == (403, "not_owner")
    assert len((await locked.get("/v1/groups/g", headers=my_key)).json()["jobs"]["queued"]) == 2
    assert (await locked.get("/v1/groups/g", headers=stranger)).status_code == 404


async def test_history_is_a_parquet_file_with_the_columns_of_the_csv(
    api: httpx.AsyncClient, store: Store, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await started(store, spec)
    await store.commit(lease, step(0, loss=2.0))
    await store.commit(lease, step(1, loss=1.5))
    await store.act(lease, Action.FAIL, "test")
    path = f"/v1/jobs/{lease.job_id}/history"
    answer = await api.get(f"{path}.parquet")
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    table = pyarrow.parquet.read_table(io.BytesIO(answer.content))
    records = [MetaIteration.model_validate(each) for each in (await api.get(path)).json()["data"]]
    assert table.column_names == list(history_rows(records)[0])
    assert table.column("validation_loss").to_pylist() == [2.0, 1.5]
    assert table.column("iteration").to_pylist() == [0, 1]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused = await api.get(f"{path}.parquet")
    assert (refused.status_code, refused.json()["code"]) == (501, "not_installed")
    assert "--out history.parquet" in refused.json()["detail"]
