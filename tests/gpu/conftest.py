"""Tests on GPUs; without one they are skipped, with the reason."""

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def missing(wanted: int) -> str | None:
    """Why there are not so many GPUs; None if there are."""
    if torch.version.cuda is None:
        return "this build of torch has no CUDA"
    found = torch.cuda.device_count()
    if found < wanted:
        return f"{wanted} GPUs are needed, torch finds {found} here"
    return None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpus(count): GPUs that a test needs; 1 if unset")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            mark = item.get_closest_marker("gpus")
            reason = missing(mark.args[0] if mark else 1)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
