"""Processes that answer requests for minibatches, as the workers of a DataLoader do.

A DataLoader waits for a thread that sends, and takes 0.6 ms a minibatch more of the process that
trains than a pipe to each process does; it finds a process that was killed after 5 s only.
"""

import multiprocessing
from collections import deque
from multiprocessing.connection import Connection, wait
from typing import Any

from drmad_workers.data import reading_process
from drmad_workers.data.reading_process import Reader, Request, Settings, Unread
from drmad_workers.data.shared_slots import Packed


class ProcessEnded(Exception):
    """A reading process ended by itself, or was killed.

    Attributes:
        pid: the number of the process.
        code: its exit code; that of a signal is negative.
    """

    def __init__(self, pid: int, code: int) -> None:
        super().__init__(pid, code)
        self.pid = pid
        self.code = code


class ReadingProcesses:
    """Processes that take requests in turn.

    They are forked from a server that has neither the threads nor the locks of this process, and
    end when they are no longer referenced, or with this process.

    Attributes:
        processes: the processes.
    """

    def __init__(self, reader: Reader, count: int) -> None:
        """Starts the processes; raises what pickling the reader raises."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([reading_process.__name__])
        settings = Settings.now()
        self.processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._asked: deque[int] = deque()
        self._number = 0
        for _ in range(count):
            own, theirs = context.Pipe()
            process = context.Process(
                target=reading_process.answer, args=(reader, settings, theirs), daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)
            self._pipes.append(own)

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Has the processes end, each after the item that it reads."""
        for pipe in self._pipes:
            pipe.close()
        self._pipes = []

    def ask(self, request: Request) -> None:
        """Sends a request to the next process.

        Raises:
            ProcessEnded.
        """
        number, self._number = self._number, (self._number + 1) % len(self._pipes)
        try:
            self._pipes[number].send(request)
        except OSError:
            raise self._ended(number) from None
        self._asked.append(number)

    def answer(self) -> Packed | Unread | None:
        """The answer to the first request that has none yet.

        Raises:
            ProcessEnded.
        """
        number = self._asked.popleft()
        pipe, process = self._pipes[number], self.processes[number]
        if not pipe.poll():
            wait([pipe, process.sentinel])
        try:
            answer: Packed | Unread | None = pipe.recv()
        except (EOFError, OSError):
            raise self._ended(number) from None
        return answer

    def drain(self) -> None:
        """Waits for all answers, of which none is needed."""
        while self._asked:
            self.answer()

    def _ended(self, number: int) -> ProcessEnded:
        process = self.processes[number]
        process.join()
        return ProcessEnded(process.pid, process.exitcode)
