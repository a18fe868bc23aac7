"""The replicas of a job: their number, their data, their aggregation and their resources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from drmad_client.spec.base import Misfit, Spec
from drmad_client.spec.outer.aggregations import AggregationName


class ReplicasSpec(Spec):
    """The replicas of each meta-iteration, and the aggregation of their hypergradients."""

    count: int = Field(
        default=1, ge=1, le=1024, description="Number of replicas K, each with seeds of its own."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Number of workers that share each training run of a replica, on one node: "
        "every minibatch is split among them, and gradients are summed.",
    )
    data: Literal["shared", "overlapping", "disjoint"] = Field(
        default="shared",
        description="Examples that a replica holds: all (shared), a share that no other replica "
        "holds (disjoint), or a share that overlaps with those of others (overlapping).",
    )
    train_share: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="Share of the training examples that a replica holds; null takes 1/K if "
        "disjoint.",
    )
    valid_share: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="Share of the validation examples that a replica holds; null takes "
        "train_share, 1 takes all.",
    )
    aggregate: AggregationName = Field(
        default="mean",
        description="Aggregation of the hypergradients: mean, majority vote of the signs, or "
        "median, each coordinate over the replicas that hold it.",
    )
    mode: Literal["sync", "async"] = Field(
        default="sync",
        description="sync makes one update from all replicas; async applies every hypergradient "
        "as it arrives, and K arrivals make a meta-iteration.",
    )
    wait_for: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Number of results after which a sync round ends without the stragglers; "
        "null waits for all.",
    )
    max_staleness: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Maximum number of updates in async mode that others apply while a replica "
        "computes, at least K - 1; an update beyond it waits. null takes 2 K.",
    )
    placement: Literal["pack", "spread"] = Field(
        default="pack",
        description="pack places replicas on as few nodes as possible, spread on as many.",
    )
    batched: Literal["off", "auto"] = Field(
        default="off",
        description="auto computes the replicas that share a device as one batch; where the "
        "method or the model does not allow it, the job warns and takes an actor for each. off "
        "takes an actor for each.",
    )

    @property
    def bound(self) -> int:
        """The number of updates that others may apply while a replica computes."""
        return 2 * self.count if self.max_staleness is None else self.max_staleness

    def shares(self) -> tuple[float | None, float | None]:
        """The shares of training and validation examples that a replica holds; None is 1/K."""
        valid = self.train_share if self.valid_share is None else self.valid_share
        return self.train_share, valid

    def smallest(self, rows: int) -> int:
        """The number of training examples in the smallest shard of `rows` examples."""
        if self.data == "shared" or self.count == 1:
            return rows
        return (
            rows // self.count if self.train_share is None else int(self.train_share * rows + 1e-9)
        )

    def misfits(self, resources: ResourcesSpec) -> Iterator[Misfit]:
        """Settings that do not fit together, or not the resources of a replica."""
        yield from self._shares_that_misfit()
        if self.wait_for is not None and self.mode == "async":
            yield _at("wait_for", self.wait_for, "must be null in async mode, which never waits")
        elif self.wait_for is not None and self.wait_for > self.count:
            message = f"must be at most count, {self.count}, got {self.wait_for}"
            yield _at("wait_for", self.wait_for, message)
        if self.max_staleness is not None and self.mode == "sync":
            message = "must be null in sync rounds, where nothing is stale; or set mode: async"
            yield _at("max_staleness", self.max_staleness, message)
        elif self.max_staleness is not None and self.max_staleness < self.count - 1:
            message = (
                f"must be at least count - 1, {self.count - 1}, got {self.max_staleness}: replicas "
                "that begin together arrive one after the other"
            )
            yield _at("max_staleness", self.max_staleness, message)
        if self.mode == "async" and self.aggregate != "mean":
            message = (
                f"must be mean in async mode, where each hypergradient is applied alone, got "
                f"{self.aggregate}; for signs set meta.optimizer: sign"
            )
            yield _at("aggregate", self.aggregate, message)
        if self.batched == "auto" and (self.mode == "async" or self.wait_for is not None):
            message = "must be off with mode: async or wait_for: replicas in a batch end together"
            yield _at("batched", self.batched, message)
        if self.batched == "auto" and 0.5 < resources.gpus <= 1.0 and self.count > 1:
            message = (
                f"must be off with gpus: {resources.gpus:g}, where no two replicas share a GPU; or "
                f"set resources.gpus to a fraction, such as {1.0 / self.count:.3g}"
            )
            yield _at("batched", self.batched, message)

    def _shares_that_misfit(self) -> Iterator[Misfit]:
        count = self.count
        for name in ("train_share", "valid_share"):
            share = getattr(self, name)
            if count == 1 and share not in (None, 1.0):
                message = (
                    f"must be null with count: 1, whose replica holds all examples, got {share}; "
                    "or ask for more replicas"
                )
                yield _at(name, share, message)
            elif self.data == "shared" and share not in (None, 1.0):
                yield _at(name, share, "must be null with data: shared; or set data: overlapping")
            elif (
                self.data == "shared"
                or share is None
                or count == 1
                or (name == "valid_share" and share == 1.0)
            ):
                continue
            elif self.data == "disjoint" and share * count > 1.0 + 1e-9:
                message = (
                    f"must be at most 1/count, {1.0 / count:.4g}, for {count} disjoint shards, got "
                    f"{share}; or set data: overlapping"
                )
                yield _at(name, share, message)
            elif self.data == "overlapping" and share * count <= 1.0 + 1e-9:
                message = (
                    f"must be above 1/count, {1.0 / count:.4g}, for shards that overlap, got "
                    f"{share}; or set data: disjoint"
                )
                yield _at(name, share, message)
        if self.data == "overlapping" and self.train_share is None and count > 1:
            message = "must be given with data: overlapping, such as 0.5 for half of the examples"
            yield _at("train_share", None, message)


LEAST_MEMORY = 1 << 29
"""The least memory of a worker, in bytes."""


class ResourcesSpec(Spec):
    """The resources that one replica reserves."""

    cpus: float = Field(
        default=1.0, gt=0.0, le=1024.0, description="Number of CPU cores of a replica."
    )
    gpus: float = Field(
        default=0.0,
        ge=0.0,
        json_schema_extra={"maximum": 64.0},
        description="GPUs of a replica: 0, 1, or the fraction of one that it shares with others; "
        "with replicas.workers one for each worker.",
    )
    memory_bytes: int | None = Field(
        default=None,
        ge=LEAST_MEMORY,
        le=1 << 50,
        description="Maximum memory of a replica without a GPU, in bytes, about 1 GiB of it for "
        "torch and Ray; its workers have equal parts. null takes the limit that the operator sets.",
    )

    def misfits(self, workers: int) -> Iterator[Misfit]:
        """Resources that a replica of so many workers would not use."""
        if self.gpus > 1.0 and workers == 1:
            message = (
                f"must be at most 1, got {self.gpus:g}: a worker uses one GPU; to use more GPUs, "
                "raise replicas.workers or replicas.count"
            )
            yield ("resources", "gpus"), self.gpus, message
        if self.gpus and self.memory_bytes is not None:
            message = (
                f"must be null with gpus: {self.gpus:g}, got {self.memory_bytes}: only a replica "
                "without a GPU is limited"
            )
            yield ("resources", "memory_bytes"), self.memory_bytes, message


def _at(name: str, value: Any, message: str) -> Misfit:
    return ("replicas", name), value, message
