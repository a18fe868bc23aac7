"""The buffers of a model, such as running statistics, which training changes."""

from collections.abc import Sequence

from torch import Tensor, nn


class Buffers:
    """Saves and restores the buffers of a model; the only place that copies them."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __bool__(self) -> bool:
        return next(self._model.buffers(), None) is not None

    def save(self) -> list[Tensor]:
        """Copies of all buffers."""
        return [buffer.detach().clone() for buffer in self._model.buffers()]

    def restore(self, saved: Sequence[Tensor]) -> None:
        """Writes saved copies back into the model."""
        for buffer, copy in zip(self._model.buffers(), saved, strict=True):
            buffer.copy_(copy)
