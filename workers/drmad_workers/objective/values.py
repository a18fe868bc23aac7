"""The values of the hyperparameters at which the losses are taken."""

from collections.abc import Mapping

import torch
from torch import Tensor

from drmad_workers.errors import ProblemError
from drmad_workers.hyperparameters.base import BoundHyperparameter, BoundTensor
from drmad_workers.hyperparameters.loss_weight import BoundClassWeight
from drmad_workers.hyperparameters.sample_weight import BoundGroupWeight, BoundSampleWeight
from drmad_workers.hyperparameters.training_data import BoundTrainingData
from drmad_workers.problem import Problem


class HyperparameterValues:
    """transform(λ) of every hyperparameter, in the form that the losses take.

    A loss takes a hyperparameter in one of two forms. A *leaf* is passed as a whole, by name. A
    *row-wise* λ has one entry per training example, of which a batch takes its own rows. With R
    replicas each replica has its own copy of the leaves.

    Attributes:
        bound: the tuned hyperparameters by name.
        by_name: transform(λ) by name.
        arguments: the leaves and the problem's hyperparameters that are not tuned, by name.
        leaf_names, row_names: the names of the leaves and of the row-wise λ.
        sample_weight, class_weight, training_data: the name of the hyperparameter of this kind.
        group_of: the group of every training example by the name of the weights of these groups.
        replicas: R; None for one replica.
    """

    def __init__(
        self,
        problem: Problem,
        bound: Mapping[str, BoundHyperparameter],
        device: torch.device,
        dtype: torch.dtype,
        replicas: int | None = None,
    ) -> None:
        self.bound = dict(bound)
        self.replicas = replicas
        self._device, self._dtype = device, dtype
        self.sample_weight = self._only(BoundSampleWeight)
        self.class_weight = self._only(BoundClassWeight)
        self.training_data = self._only(BoundTrainingData)
        self.group_of = {
            b.name: b.group_of.to(device) for b in bound.values() if isinstance(b, BoundGroupWeight)
        }
        self._ignores = any(isinstance(b, BoundClassWeight) and b.ignores for b in bound.values())
        rows = (self.sample_weight, self.training_data)
        self.row_names = [name for name in rows if name is not None]
        self.leaf_names = [b.name for b in bound.values() if isinstance(b, BoundTensor)]
        self._constants = self._untuned(problem)
        self.by_name: dict[str, Tensor] = {}
        self.arguments: dict[str, Tensor] = {}

    def set(self, raw: Mapping[str, Tensor]) -> None:
        """Takes λ by name; requires every bound hyperparameter in its shape."""
        if raw.keys() != self.bound.keys():
            raise ProblemError(
                f"values must be given for {sorted(self.bound)}, got {sorted(raw)}",
                "hyperparameters",
            )
        for name, bound in self.bound.items():
            if raw[name].shape != bound.shape:
                raise ProblemError(
                    f"{name} must have shape {tuple(bound.shape)}, got {tuple(raw[name].shape)}",
                    f"hyperparameters.{name}",
                )
            given = raw[name].detach().to(device=self._device, dtype=self._dtype)
            self.by_name[name] = bound.value(given)
        self.release()

    def leaves(self) -> list[Tensor]:
        return [self.arguments[name] for name in self.leaf_names]

    def rows_of(self, index: Tensor) -> dict[str, Tensor]:
        """The rows of every row-wise λ at `index`, shape (rows,) or (R, rows)."""
        if index.ndim == 1:
            return {name: self.by_name[name].index_select(0, index) for name in self.row_names}
        found = {}
        for name in self.row_names:
            taken = self.by_name[name].index_select(0, index.reshape(-1))
            found[name] = taken.view(index.shape + taken.shape[1:])
        return found

    def weights_of(self, targets: Tensor, by_class: Tensor) -> Tensor:
        """The weight of every row by its class, shape (rows,); 0 for negative classes."""
        if not self._ignores:
            return by_class.index_select(0, targets)
        return by_class.index_select(0, targets.clamp_min(0)) * (targets >= 0)

    def by_example(self, name: str, value: Tensor, index: Tensor | None = None) -> Tensor:
        """The weights of the training examples at `index` by their groups; None takes all.

        An example without a group has a weight of 0.
        """
        group_of = self.group_of[name]
        group_of = group_of if index is None else group_of.index_select(0, index)
        return value.index_select(0, group_of.clamp_min(0)) * (group_of >= 0)

    def for_users(self, arguments: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the user's own losses take: of the weights of groups one per training example."""
        if not self.group_of:
            return arguments
        spread = {name: self.by_example(name, arguments[name]) for name in self.group_of}
        return {**arguments, **spread}

    def differentiable_rows_of(self, index: Tensor) -> dict[str, Tensor]:
        """`rows_of` as leaves of autograd."""
        return {name: part.requires_grad_() for name, part in self.rows_of(index).items()}

    def differentiate(self) -> None:
        """Makes the leaves leaves of autograd, until `release`."""
        for name in self.leaf_names:
            value = self.spread(self.by_name[name]).detach()
            self.arguments[name] = (
                value if self.replicas is None else value.clone()
            ).requires_grad_()

    def release(self) -> None:
        """Makes the leaves plain values."""
        leaves = {name: self.spread(self.by_name[name]) for name in self.leaf_names}
        self.arguments = leaves | self._constants

    def spread(self, value: Tensor) -> Tensor:
        """The value with a leading axis of R replicas."""
        return value if self.replicas is None else value.expand(self.replicas, *value.shape)

    def all_on_cpu(self) -> dict[str, Tensor]:
        """The values of all hyperparameters by name, tuned or not."""
        return {name: v.cpu() for name, v in (self.by_name | self._constants).items()}

    def _only(self, kind: type[BoundHyperparameter]) -> str | None:
        """The name of the hyperparameter of this kind; raises ProblemError if there are two."""
        names = [bound.name for bound in self.bound.values() if type(bound) is kind]
        if len(names) > 1:
            raise ProblemError(
                f"there must be at most one {kind.what}, got {', '.join(names)}: remove one",
                f"hyperparameters.{names[1]}",
            )
        return names[0] if names else None

    def _untuned(self, problem: Problem) -> dict[str, Tensor]:
        untuned: dict[str, Tensor] = {}
        for name, stated in problem.hyperparameters.items():
            if name not in self.bound:
                init = stated.init.detach().to(device=self._device, dtype=self._dtype)
                bound = BoundTensor(name, init, stated.transform, None, None, [])
                untuned[name] = bound.value(init)
        return untuned
