"""The work that the first worker of a replica shares with the others, each an actor of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ray

from drmad_workers.ray_actor.failures import WORKER_LOST
from drmad_workers.ray_actor.messages import Failure

if TYPE_CHECKING:
    from drmad_workers.distributed.group import WorkerGroup
    from drmad_workers.replica import Replica

T = TypeVar("T")


class SharedWork:
    """One worker of a replica; the first one leads the others.

    Attributes:
        followers: the actors of the other workers; empty for one of these.
    """

    def __init__(self, followers: Sequence[Any]) -> None:
        self.followers = followers
        self._group: WorkerGroup | None = None

    def connect(self, device: str) -> Failure | None:
        """Connects all workers, once each of them has the problem; the failure of one of them."""
        if not self.followers:
            return None
        folder = Path(tempfile.mkdtemp(prefix="drmad-workers-"))
        size = 1 + len(self.followers)
        joining = [
            follower.join.remote(str(folder), rank, size)
            for rank, follower in enumerate(self.followers, start=1)
        ]
        try:
            self.join(folder, 0, size, device)
        finally:
            failures = ray.get(joining)
            shutil.rmtree(folder, ignore_errors=True)
        return next((failure for failure in failures if failure is not None), None)

    def join(self, folder: Path, rank: int, size: int, device: str) -> None:
        """Takes this worker's place among those that meet in the folder."""
        from drmad_workers.devices import resolve_device
        from drmad_workers.distributed.group import WorkerGroup

        self._group = WorkerGroup(folder, rank, size, resolve_device(device))

    @property
    def is_shared(self) -> bool:
        return self._group is not None

    @contextmanager
    def of(self, replica: Replica, should_stop: Callable[[], bool] | None = None) -> Iterator[None]:
        """Has the workers share the training runs inside; every worker runs the same.

        An error that the other workers do not meet too ends the group, so that none of them waits.
        `should_stop` of the first worker stops all of them.
        """
        from drmad_workers.errors import HypergradientError, Stopped, TrainingDiverged

        if self._group is None:
            yield
            return
        try:
            with replica.shared_by(self._group), self._group.stopped_by(should_stop):
                yield
        except (TrainingDiverged, HypergradientError, Stopped):
            raise
        except BaseException:
            self._group.close()
            raise

    def beside(self, begin: Callable[[Any], Any], body: Callable[[], T | Failure]) -> T | Failure:
        """The result of `body`, while the followers do what `begin` asks of each.

        Of several failures the one that is not the loss of the others.

        Raises:
            RayError: a follower has ended.
        """
        begun = [begin(follower) for follower in self.followers]
        result = body()
        failures: list[Any] = [result, *ray.get(begun)] if begun else [result]
        roots = [each for each in failures if isinstance(each, Failure)]
        return next((each for each in roots if each.code != WORKER_LOST), next(iter(roots), result))
