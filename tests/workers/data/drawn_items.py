"""Data sets that reading processes import, with what may go wrong in them."""

import os
import random
import threading
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

CLASSES = 3


class Drawn(Dataset[Any]):
    """Inputs that draw from all three global generators, in float64."""

    def __init__(self, rows: int = 31) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> Any:
        drawn = torch.randn(4, dtype=torch.float64) * random.random()
        return drawn + float(np.random.rand()) + row % CLASSES, row % CLASSES


class DrawnLengths(Drawn):
    """Sequences of different lengths."""

    def __getitem__(self, row: int) -> Any:
        length = 1 + row % 3
        return {"x": torch.randn(length, 4, dtype=torch.float64), "y": row % CLASSES}


def padded_with_noise(items: list[Any]) -> Any:
    """Pads to the longest, and draws."""
    longest = max(len(item["x"]) for item in items)
    x = torch.zeros(len(items), longest, 4, dtype=torch.float64)
    for row, item in enumerate(items):
        x[row, : len(item["x"])] = item["x"]
    return x.sum(1) + 0.1 * torch.randn(len(items), 4, dtype=torch.float64), torch.tensor(
        [item["y"] for item in items]
    )


def in_reader() -> bool:
    return parent_process() is not None


class Failing(Drawn):
    """Items of which one raises, everywhere or in a reading process alone."""

    def __init__(self, row: int, error: Exception, only_in_reader: bool = False) -> None:
        super().__init__()
        self.row, self.error, self.only_in_reader = row, error, only_in_reader

    def __getitem__(self, row: int) -> Any:
        if row == self.row and (in_reader() or not self.only_in_reader):
            raise self.error
        return super().__getitem__(row)


class Ending(Drawn):
    """Items of which one ends the process that reads it, as the system does without memory."""

    def __getitem__(self, row: int) -> Any:
        if row == 17 and in_reader():
            os.kill(os.getpid(), 9)
        return super().__getitem__(row)


class Unsendable(Drawn):
    """A data set that holds what no other process can receive."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Telling(Drawn):
    """Items that contain the process that read them, its threads and its default type."""

    def __getitem__(self, row: int) -> Any:
        facts = [os.getpid(), torch.get_num_threads(), torch.get_default_dtype() == torch.float64]
        return torch.tensor([float(random.random() >= 0), *map(float, facts)]), row % CLASSES


class LargeFile(Drawn):
    """Rows of a file of float32, which an item opens."""

    def __init__(self, path: str, rows: int, width: int) -> None:
        super().__init__(rows)
        self.path, self.width = path, width

    def __getitem__(self, row: int) -> Any:
        values = np.fromfile(self.path, np.float32, self.width, offset=4 * self.width * row)
        return torch.from_numpy(values) + torch.rand(()), row % CLASSES
