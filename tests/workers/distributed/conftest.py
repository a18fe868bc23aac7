"""Groups of two and of four workers, which all tests of this folder share."""

from collections.abc import Iterator

import pytest

from tests.workers.distributed.processes import Processes


@pytest.fixture(scope="package", params=[2, 4], ids=["two workers", "four workers"])
def processes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Processes]:
    made = Processes(tmp_path_factory.mktemp("workers"), request.param)
    yield made
    made.close()


@pytest.fixture(scope="package")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    made = Processes(tmp_path_factory.mktemp("two"), 2)
    yield made
    made.close()
