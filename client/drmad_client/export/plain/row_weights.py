"""The weights of the training rows, and the rows that are left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drmad_client.export.plain.rates import Tuned
from drmad_client.export.plain.statement import Examples, Problem
from drmad_client.export.plain.uses import USES


class RowWeights:
    """The tuned weights of examples, classes, sources and other groups.

    Attributes:
        kept: the positions of the rows that train.
        by_name: the weight of every training row by the name of its hyperparameter, without those
            of the classes; the validation rows, which come last, have a weight of one.
    """

    def __init__(
        self, settings: Mapping[str, Any], tuned: Tuned, problem: Problem, examples: Examples
    ) -> None:
        rows, trained = examples.rows, Examples(problem, problem.train).rows
        self._problem, self._tuned, self._settings = problem, tuned, settings
        self._weights = [w for w in settings["hyperparameters"] if w["kind"] == "sample_weight"]
        self.by_name: dict[str, Tensor] = {}
        for each in self._weights:
            values, ones = tuned[each["name"]], torch.ones(rows - trained)
            if each["per"] == "class":
                continue
            if "weights of groups" in USES:
                if each["per"] != "example":
                    column = problem.columns[each["column"] or "source"]
                    group_of = np.unique(np.asarray(column), return_inverse=True)[1]
                    values = values[torch.from_numpy(group_of)]
            self.by_name[each["name"]] = torch.cat([values, ones.to(values)])
        self.kept = torch.arange(rows)
        if "rows left out" in USES:
            self.kept = self._without_lowest(examples, trained, rows)

    def mean(self, losses: Tensor, content: Any, index: Tensor) -> Tensor:
        """The weighted mean of the losses of a minibatch: Σ u n ℓ / Σ n; n are normalised."""
        if "loss_weight" in USES:
            for each in self._settings["hyperparameters"]:
                if each["kind"] == "loss_weight":
                    losses = losses * self._by_class(each["name"], content).to(losses)
        if "rows left out" in USES:
            normalised = any(each["normalised"] for each in self._weights)
            return losses.mean() * (1.0 if normalised else self._settings["untuned_weight"])
        if "normalised" in USES:
            divisor = torch.ones_like(losses)
        for each in self._weights:
            weights = self._of_rows(each, content, index).to(losses)
            losses = losses * weights
            if "normalised" in USES:
                if each["normalised"]:
                    divisor = divisor * weights
        if "normalised" in USES:
            return losses.sum() / divisor.sum()
        return losses.mean()

    def _of_rows(self, each: Mapping[str, Any], content: Any, index: Tensor) -> Tensor:
        if "weights of classes" in USES:
            if each["per"] == "class":
                return self._by_class(each["name"], content)
        return self.by_name[each["name"]][index]

    if "weights of classes" in USES:

        def _by_class(self, name: str, content: Any) -> Tensor:
            classes = self._problem.classes_of(content)
            return self._tuned[name][classes.clamp_min(0)] * (classes >= 0)

    if "rows left out" in USES:

        def _without_lowest(self, examples: Examples, trained: int, rows: int) -> Tensor:
            threshold, lowest = self._settings["threshold"], self._settings["drop_lowest"]
            index = torch.arange(trained)
            total = torch.ones(trained, dtype=torch.float64)
            for each in self._weights:
                parts = [
                    self._of_rows(each, examples.take(part, torch.float64), part)
                    if each["per"] == "class"
                    else self._of_rows(each, None, part)
                    for part in torch.split(index, 256)
                ]
                total *= torch.cat(parts).double()
            order = torch.argsort(total, stable=True)
            if threshold is not None:
                count = int((total < threshold).sum())
            else:
                count = max(1, round(lowest * trained)) if lowest < 1 else int(lowest)
            kept = torch.ones(rows, dtype=torch.bool)
            kept[order[:count]] = False
            return torch.nonzero(kept).flatten()
