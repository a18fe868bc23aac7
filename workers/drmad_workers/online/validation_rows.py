"""The validation rows of each window of an online run."""

import numpy as np
import torch

from drmad_workers.data.examples import Examples
from drmad_workers.errors import ProblemError
from drmad_workers.random_streams import Purpose, generator_of


class ValidationRows:
    """All validation rows, or a minibatch of them for each window, in an order of each epoch.

    The rows of a window are a function of the stream and of the number of the window in its run. An
    epoch leaves out the rows that do not fill a minibatch.

    Attributes:
        count: the rows of a window.
    """

    def __init__(self, valid: Examples, batch: int | None) -> None:
        """
        Args:
            valid: the validation rows that the replica holds.
            batch: the rows of a minibatch; None takes all.
        Raises:
            ProblemError: there are fewer rows than a minibatch has.
        """
        if batch is not None and batch > valid.rows:
            raise ProblemError(
                f"validation_batch must be at most the {valid.rows} validation rows that a replica "
                f"holds, got {batch}: take fewer, or leave it out",
                "meta.validation_batch",
            )
        self.count = valid.rows if batch is None else batch
        self._valid = valid
        self._order: tuple[tuple[int, ...], np.ndarray] | None = None

    def of(self, window: int, stream: tuple[int, int, int]) -> Examples:
        """The rows of a window.

        Args:
            window: the number of the window in its run.
            stream: the numbers that determine the run, see Replica.stream.
        """
        valid, count = self._valid, self.count
        if count == valid.rows:
            return valid
        epoch, place = divmod(window, valid.rows // count)
        key = (*stream, epoch)
        if self._order is None or self._order[0] != key:
            order = generator_of(Purpose.VALIDATION_ROWS, *key).permutation(valid.rows)
            self._order = key, order
        rows = torch.from_numpy(self._order[1][place * count : (place + 1) * count])
        rows = rows.to(valid.device)
        return valid.part(rows if valid.positions is None else valid.positions[rows])
