"""Minibatches that other processes read while this one trains."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from ctypes import c_longlong
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import torch

from drmad_workers.data.items import Items
from drmad_workers.data.reading_process import Reader, Request, Unread
from drmad_workers.data.reading_processes import ProcessEnded, ReadingProcesses
from drmad_workers.data.shared_slots import Packed, SharedSlots
from drmad_workers.errors import ProblemError

AHEAD = 4
"""The minibatches of training data that each process reads ahead."""
FIELD = "training.data_workers"

T = TypeVar("T")


class Wanted(NamedTuple):
    """A minibatch of a pass.

    Attributes:
        key: what ReadAhead.take asks for.
        rows, seeds: see Items.take.
        collated: whether the content is wanted; otherwise a list of its items.
    """

    key: Hashable
    rows: Sequence[int]
    seeds: Sequence[int] | None
    collated: bool


class Kept(NamedTuple):
    """A minibatch that was received and whose slot is not in use again."""

    wanted: Wanted
    read: Packed | Unread
    slot: int


class ReadAhead:
    """Reads the minibatches of data that do not lie in memory in other processes.

    A pass states the order in which it will take minibatches, by `expect`, and the processes read
    the next few of them. What a pass takes out of this order is not there, and the caller reads it
    itself: the order decides on the time, and never on what a minibatch contains.

    The processes begin with the first order and stay between passes, until `close` or until this
    object is no longer referenced. They end with this process, however it ends. They are forked
    from a server that has neither the threads nor the locks of this process. The data set is
    therefore sent to them; tensors and memory maps are shared.

    Attributes:
        missed: the number of minibatches that `take` did not have, since the first order.
        collated: whether `take` returns contents in the present order, or lists of items.
    """

    def __init__(self, items: Items, name: str, workers: int, ahead: int = AHEAD) -> None:
        """
        Args:
            items: the data.
            name: that of the data in a ProblemError.
            workers: the number of processes.
            ahead: the minibatches that each process reads ahead.
        """
        self._items = items
        self._name = name
        self._workers = workers
        self._ahead = ahead
        self._requests = Requests()
        self._reading: ReadingProcesses | None = None
        self._kept: deque[Kept] = deque()
        self._window = 1
        self.missed = 0
        self.collated = True

    @property
    def processes(self) -> list[Any]:
        """The processes, from the first order to `close`."""
        return [] if self._reading is None else self._reading.processes

    def expect(self, order: Iterable[Wanted], window: int = 1, collated: bool = True) -> None:
        """States the minibatches that a pass will take, in the order of their first use.

        Minibatches that are already under way are kept if the order begins with them.

        Args:
            order: is read as far as minibatches are requested.
            window: the pass takes a minibatch again, or before others, among so many in a row.
            collated: that of all of them; see Wanted.
        Raises:
            ProblemError: the data cannot be sent to another process, or a process ended.
        """
        requests, self._window, self.collated = self._requests, window, collated
        fresh = iter(order)
        first = list(islice(fresh, len(requests.sent)))
        if first and first == [wanted for wanted, _ in requests.sent]:
            requests.follow(fresh)
            return
        self._kept.clear()
        requests.begin(chain(first, fresh))
        if self._reading is None:
            self._reading = self._begun()
        self._attempt(self._reading.drain)
        for _ in range(self._ahead * self._workers):
            self._ask()

    def take(self, keys: Sequence[Hashable]) -> list[Any | None]:
        """The content of minibatches, and None for each that is not near the front of the order.

        Raises:
            ProblemError: a process ended, or an item could not be read.
        """
        missing = set(keys) - {kept.wanted.key for kept in self._kept}
        while missing:
            near = self._requests.near(self._window)
            found = (number for number, wanted in enumerate(near) if wanted.key in missing)
            position = next(found, None)
            if position is None:
                break
            for _ in range(position + 1):
                missing.discard(self._receive())
        kept = {each.wanted.key: each for each in self._kept}
        contents = [self._content(kept[key]) if key in kept else None for key in keys]
        while len(self._kept) > self._window:
            self._requests.free.append(self._kept.popleft().slot)
        self.missed += len(missing) if self._reading is not None else 0
        return contents

    def close(self) -> None:
        """Ends the processes; a later order begins new ones."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None
        self._kept.clear()
        self._requests = Requests()

    def _ask(self) -> None:
        """Requests the next minibatch of the order, if there is one."""
        reading, request = self._reading, self._requests.next()
        if reading is not None and request is not None:
            self._attempt(lambda: reading.ask(request))

    def _receive(self) -> Hashable:
        """Receives the first minibatch that was requested, and requests another one."""
        assert self._reading is not None
        read = self._attempt(self._reading.answer)
        wanted, slot = self._requests.sent.popleft()
        assert read is not None, "only requests of earlier orders have no answer"
        self._kept.append(Kept(wanted, read, slot))
        self._ask()
        return wanted.key

    def _content(self, kept: Kept) -> Any:
        if isinstance(kept.read, Packed):
            return self._requests.slots.unpack(kept.read)
        # The same items raise the same error here, with its own traceback.
        self._items.take(torch.tensor(kept.wanted.rows), kept.wanted.seeds)
        raise ProblemError(
            f"items of {self._name} must be readable in another process, and there a minibatch "
            f"raised {kept.read.error}, while the process that trains can read it: let the data "
            f"set open its files in __getitem__, or set {FIELD} to 0",
            FIELD,
        )

    def _begun(self) -> ReadingProcesses:
        reader = Reader(self._items, self._requests.slots, self._requests.turn)
        try:
            return ReadingProcesses(reader, self._workers)
        except Exception as error:
            raise self._not_sent(error) from error

    def _attempt(self, work: Callable[[], T]) -> T:
        """The result of `work`, which speaks with the processes."""
        try:
            return work()
        except ProcessEnded as error:
            self.close()
            raise self._ended(error) from error

    def _not_sent(self, error: Exception) -> ProblemError:
        return ProblemError(
            f"{self._name} must be data that another process can receive where {FIELD} is above 0, "
            f"got {type(error).__name__}: {error}; define the class of the data set and the "
            "collate function at the top of a module and open files in __getitem__, or set "
            f"{FIELD} to 0",
            FIELD,
        )

    def _ended(self, error: ProcessEnded) -> ProblemError:
        if error.code < 0:
            reason = (
                f"process {error.pid} was ended by signal {-error.code}, as the system does when "
                "memory runs out: use fewer processes, a smaller training.batch_size or smaller "
                "items"
            )
        else:
            reason = (
                f"process {error.pid} ended with exit code {error.code}: define the class of the "
                "data set in a module that another process can import, start a script's work "
                "under if __name__ == '__main__', and let no item end its process"
            )
        return ProblemError(
            f"the processes of {FIELD} must live as long as the training, and {reason}; or set "
            f"{FIELD} to 0",
            FIELD,
        )


class Requests:
    """The order of a pass as requests, each with a free slot.

    Attributes:
        sent: what was requested and not received yet, with its slot.
        free: slots that were in use before.
        turn: the number of the present order, in memory that the processes share.
        slots: the slots.
    """

    def __init__(self) -> None:
        self.sent: deque[tuple[Wanted, int]] = deque()
        self.free: list[int] = []
        self.turn: c_longlong = multiprocessing.RawValue(c_longlong, 0)
        self.slots = SharedSlots()
        self._count = 0
        self._order: Iterator[Wanted] = iter(())
        self._looked_up: deque[Wanted] = deque()

    def begin(self, order: Iterator[Wanted]) -> None:
        """Begins another order; the processes drop what they have not begun to read."""
        self.follow(order)
        self.sent.clear()
        self.free = list(range(self._count))
        self.turn.value += 1

    def follow(self, order: Iterator[Wanted]) -> None:
        """Continues what was sent by another order."""
        self._order = order
        self._looked_up.clear()

    def near(self, count: int) -> Iterator[Wanted]:
        """The next `count` minibatches of the order that were not received yet."""
        lacking = count - len(self.sent) - len(self._looked_up)
        self._looked_up.extend(islice(self._order, max(0, lacking)))
        return islice(chain((wanted for wanted, _ in self.sent), self._looked_up), count)

    def next(self) -> Request | None:
        """The next request; None at the end of the order."""
        wanted = self._looked_up.popleft() if self._looked_up else next(self._order, None)
        if wanted is None:
            return None
        if not self.free:
            self.free.append(self._count)
            self._count += 1
        slot = self.free.pop()
        self.sent.append((wanted, slot))
        seeds = None if wanted.seeds is None else torch.tensor(wanted.seeds, dtype=torch.uint64)
        of = self.slots.pack(slot, (torch.tensor(wanted.rows), seeds))
        return Request(self.turn.value, slot, of, wanted.collated)
