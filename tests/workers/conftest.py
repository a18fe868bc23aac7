"""How Hypothesis draws examples for the engine, and where MNIST's files lie."""

import os
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "engine", derandomize=True, database=None, deadline=None, max_examples=25
)


@pytest.fixture(scope="session")
def mnist_roots() -> list[Path]:
    roots = os.environ.get("DRMAD_DATA_ROOTS", "")
    folders = [Path(root) for root in roots.split(os.pathsep) if root]
    if not any((folder / "mnist").is_dir() for folder in folders):
        pytest.skip("DRMAD_DATA_ROOTS names no folder with MNIST's files in it")
    return folders
