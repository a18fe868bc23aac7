"""One thread, so that figures repeat and tests running side by side do not fight for cores."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "engine", derandomize=True, database=None, deadline=None, max_examples=25
)


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def mnist_roots() -> list[Path]:
    roots = os.environ.get("DRMAD_DATA_ROOTS", "")
    folders = [Path(root) for root in roots.split(os.pathsep) if root]
    if not any((folder / "mnist").is_dir() for folder in folders):
        pytest.skip("DRMAD_DATA_ROOTS names no folder with MNIST's files in it")
    return folders
