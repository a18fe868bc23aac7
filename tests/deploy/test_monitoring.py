"""Dashboard and alerts query series that /metrics exports, in PromQL that parses."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from drmad_client.records.job import JobError
from drmad_client.spec.job import JobSpec
from drmad_service.api.prometheus import Metrics
from drmad_service.store import Store
from drmad_service.store.layout.state_machine import Action
from tests.deploy.containers import ROOT
from tests.service.conftest import body, redis, spec, store
from tests.service.store.test_store import started, step

pytestmark = pytest.mark.anyio
__all__ = ["body", "redis", "spec", "store"]  # fixtures

ALERTS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())
BOARD = json.loads((ROOT / "deploy" / "grafana" / "drmad.json").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in BOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def selectors(expression: str) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """Each series that an expression reads: its name, and label -> (operator, value)."""
    for name, matchers in re.findall(
        r"\b((?:drmad|process)_\w+)(?:\{((?:[^}\"]|\"[^\"]*\")*)\})?", expression
    ):
        found = re.findall(r"(\w+)\s*(=~|!~|!=|=)\s*\"([^\"]*)\"", matchers)
        yield name, {label: (operator, value) for label, operator, value in found}


async def exported_series(redis: Redis, store: Store, spec: JobSpec) -> dict[str, set[str]]:
    """Every series of a service in which every event has happened, with the names of its labels."""
    lease = await started(store, spec)
    first = step(0)
    timed = first.record | {"seconds": {"forward": 1.0, "total": 2.0}}
    await store.commit(lease, dataclasses.replace(first, record=timed))
    await store.warn(lease, "replica_lost", "x")
    error = JobError(code="replica_lost", message="x")
    await store.act(lease, Action.FAIL, "replica_lost", "x", error)
    await store.create(spec)
    await redis.hset("drmad:counters", "webhook:delivered", "1")
    metrics = Metrics()
    metrics.requests.labels("GET", "/v1/jobs", 200).observe(0.1)
    metrics.redis.observe(0.1)
    series: dict[str, set[str]] = {}
    for family in text_string_to_metric_families((await metrics.text(redis)).decode()):
        for sample in family.samples:
            series.setdefault(sample.name, set()).update(sample.labels)
    return series


@pytest.mark.parametrize(("where", "expression"), [*expressions()])
def test_expression_parses(where: str, expression: str) -> None:
    promql_parser.parse(expression)
    assert [*selectors(expression)], where


async def test_every_series_and_label_is_exported(
    redis: Redis, store: Store, spec: JobSpec
) -> None:
    series = await exported_series(redis, store, spec)
    targets = {"job", "instance"}  # added by Prometheus
    for where, expression in expressions():
        read = [*selectors(expression)]
        labels: set[str] = set(targets)
        for name, matchers in read:
            assert name in series, where
            labels |= series[name]
            assert set(matchers) <= series[name] | targets, where
        for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
            assert {label.strip() for label in grouped.split(",")} <= labels, where
    unseen = {name for name in series if name.startswith("drmad_")} - {
        name for _, expression in expressions() for name, _ in selectors(expression)
    }
    assert {name for name in unseen if not name.endswith(("_created", "_sum", "_count"))} == set()


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text()
    for rule in RULES:
        assert f"`{rule['alert']}`" in page
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_panels_do_not_overlap_and_name_their_source() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place: dict[str, Any] = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert max(x for x, _ in cells) < 24
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${source}"
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
