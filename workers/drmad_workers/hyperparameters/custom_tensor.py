"""A tensor that the user's own problem states."""

from dataclasses import dataclass

from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import BoundHyperparameter, BoundTensor, Group, Setting


@dataclass(frozen=True)
class CustomTensor:
    """Tunes the tensor that the problem states under this name in `hyperparameters`."""

    name: str

    def bind(self, setting: Setting) -> BoundHyperparameter:
        stated = setting.problem.hyperparameters.get(self.name)
        if stated is None:
            known = ", ".join(sorted(setting.problem.hyperparameters)) or "none"
            raise ProblemError(
                f"the problem must state a hyperparameter named {self.name!r}, it states: {known}",
                f"hyperparameters.{self.name}",
            )
        initial = stated.init.detach().to(device="cpu", dtype=setting.dtype, copy=True)
        groups = [Group(self.name, 0, initial.numel())]
        return BoundTensor(self.name, initial, stated.transform, stated.lower, stated.upper, groups)
