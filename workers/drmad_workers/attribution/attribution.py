"""The attribution of several draws: mean scores, their agreement and their LDS.

[Park2023] TRAK: attributing model behavior at scale, 2303.14186 (LDS, section 2).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from drmad_client.files.influence_scores import InfluenceScores
from drmad_client.spec import bounds, defaults
from drmad_workers.attribution.attributor import Attributor, DrawScores
from drmad_workers.attribution.queries import ROWS, classes_in
from drmad_workers.errors import ProblemError
from drmad_workers.hypergradients.automatic.choice import settings_of
from drmad_workers.hyperparameters.sample_weight import grouped
from drmad_workers.random_streams import Purpose, seed_of
from drmad_workers.replica import Replica
from drmad_workers.training.progress import OnProgress
from drmad_workers.validation.changes import subset_rows
from drmad_workers.validation.rank_correlation import RankCorrelation, rank_correlation

TOP = 20
"""Helpers and harmers that a report names."""
QUERIES = 100
"""Queries that a report names; the scores have all of them."""
VIEWED = 20
"""Queries whose examples have pictures and texts."""
GROUPS = 100
"""Groups of one name that a report has."""


@dataclass(frozen=True)
class LdsSettings:
    """What is retrained to judge the scores.

    Attributes:
        retrainings: M; 0 for none.
        left_out: the share of the examples that each leaves out, in (0, 1).
        seed: that of the subsets.
    """

    retrainings: int = defaults.Attribution.lds
    left_out: float = defaults.Attribution.left_out
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = bounds.Attribution
        for name, bound in (("lds", allowed.lds), ("left_out", allowed.left_out)):
            given = self.retrainings if name == "lds" else self.left_out
            if not bound.hold(given):
                raise ProblemError(f"{name} must be {bound}, got {given!r}", f"attribution.{name}")

    def subset(self, number: int, rows: int) -> Tensor:
        """The positions of the examples that retraining `number` leaves out, int64."""
        draw = torch.Generator().manual_seed(seed_of(Purpose.ATTRIBUTION, self.seed, number))
        return torch.randperm(rows, generator=draw)[: subset_rows(rows, self.left_out)]


@dataclass(frozen=True)
class DrawAttribution:
    """What one draw contributes.

    Attributes:
        scores: the scores of the draw.
        retrained: by the number of the retraining, the value of every query, shape (Q,), float64;
            None if it diverged.
        seconds: of the scores.
    """

    scores: DrawScores
    retrained: dict[int, Tensor | None]
    seconds: float


def attribute_draw(
    attributor: Attributor,
    draw: int,
    draws: int,
    lds: LdsSettings,
    should_stop: Callable[[], bool] | None = None,
    on_progress: OnProgress | None = None,
) -> DrawAttribution:
    """The scores of draw `draw` of `draws`, and its share of the retrainings.

    Retraining m belongs to draw m mod `draws`.

    Raises:
        TrainingDiverged, HypergradientError, Stopped, ProblemError.
    """
    began = time.perf_counter()
    scores = attributor.scores(draw, should_stop, on_progress)
    seconds = time.perf_counter() - began
    retrained = {}
    for number in range(draw, lds.retrainings, draws):
        if on_progress is not None:
            on_progress("retraining", number, lds.retrainings)
        rows = lds.subset(number, attributor.rows)
        retrained[number] = attributor.values_without(rows, draw, should_stop)
    return DrawAttribution(scores, retrained, seconds)


@dataclass(frozen=True)
class Attribution:
    """The attribution over all draws.

    Attributes:
        scores: the mean influence over the draws.
        agreement: the mean cosine between the scores of two draws, over all queries; None for one
            draw.
        lds: the LDS of every query; empty if nothing was retrained.
        retrainings, diverged: the training runs without a subset, and those that diverged.
        left_out: the share of the examples in a subset; None if nothing was retrained.
        method: the settings of the method, with its name under "method".
        cost: of the scores, in plain training runs.
        seconds: of the scores, of all draws together.
        draws: their number.
    """

    scores: InfluenceScores
    agreement: float | None
    lds: list[RankCorrelation]
    retrainings: int
    diverged: int
    left_out: float | None
    method: dict[str, Any]
    cost: float
    seconds: float
    draws: int

    def as_dict(
        self,
        top: int = TOP,
        views: Callable[[Sequence[int]], Mapping[int, Mapping[str, str | None]]] | None = None,
    ) -> dict[str, Any]:
        """The fields of drmad_client.records.side_runs.attribution.AttributionReport.

        `views` gives rows their text and their picture, see `views_of`.
        """
        queries = [self._query(number, top) for number in range(len(self.scores.queries[:QUERIES]))]
        if views is not None:
            sides = [query[side] for query in queries[:VIEWED] for side in ("helpers", "harmers")]
            examples = [example for side in sides for example in side]
            found = views(sorted({example["row"] for example in examples}))
            for example in examples:
                example |= found[example["row"]]
        return {
            "method": self.method,
            "rows": self.scores.rows,
            "query_count": len(self.scores.queries),
            "queries": queries,
            "draws": self.draws,
            "agreement": self.agreement,
            "lds": _fields(mean_correlation(self.lds)) if self.lds else None,
            "retrainings": self.retrainings,
            "diverged": self.diverged,
            "left_out": self.left_out,
            "cost": self.cost,
            "seconds": self.seconds,
        }

    def _query(self, number: int, top: int) -> dict[str, Any]:
        scores = self.scores
        name, influence = scores.queries[number], scores.influence[number]
        order = scores.order(name)
        groups: list[dict[str, Any]] = []
        for group, numbers in scores.groups.items():
            sums = scores.sums(group)[number]
            largest = sorted(range(len(sums)), key=lambda each: -abs(sums[each]))[:GROUPS]
            groups += [
                {
                    "group": group,
                    "label": scores.labels[group][each],
                    "rows": int((numbers == each).sum()),
                    "influence": float(sums[each]),
                }
                for each in sorted(largest)
            ]

        def example(row: int) -> dict[str, Any]:
            labels = {group: scores.label_of(group, row) for group in scores.groups}
            known = {group: label for group, label in labels.items() if label is not None}
            return {"row": row, "influence": float(influence[row]), "groups": known}

        return {
            "name": name,
            "value": float(scores.values[number]),
            "helpers": [example(int(row)) for row in order[::-1][:top]],
            "harmers": [example(int(row)) for row in order[:top]],
            "groups": groups,
            "lds": _fields(self.lds[number]) if self.lds else None,
        }


def combined(
    attributor: Attributor, parts: Sequence[DrawAttribution], lds: LdsSettings
) -> Attribution:
    """The attribution of the draws 0, 1, .., in their order."""
    all_scores = torch.stack([part.scores.influence.double() for part in parts])
    influence = all_scores.mean(0)
    values = torch.stack([part.scores.values for part in parts])
    correlations, diverged = _lds(attributor, parts, influence, lds)
    groups, labels = groups_of(attributor.tuner.replica, attributor.rows)
    scores = InfluenceScores(
        [query.label for query in attributor.queries],
        influence.float().numpy(),
        values.mean(0).numpy(),
        {name: numbers.numpy() for name, numbers in groups.items()},
        labels,
    )
    return Attribution(
        scores=scores,
        agreement=agreement_of(all_scores),
        lds=correlations,
        retrainings=lds.retrainings,
        diverged=diverged,
        left_out=lds.left_out if lds.retrainings else None,
        method=settings_of(attributor.tuner.replica.method),
        cost=sum(part.scores.cost for part in parts),
        seconds=sum(part.seconds for part in parts),
        draws=len(parts),
    )


def attribute(
    attributor: Attributor,
    draws: int = 1,
    lds: LdsSettings | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_progress: OnProgress | None = None,
) -> Attribution:
    """The whole attribution in this process.

    Raises:
        TrainingDiverged, HypergradientError, Stopped, ProblemError.
    """
    lds = lds or LdsSettings()
    parts = [
        attribute_draw(attributor, draw, draws, lds, should_stop, on_progress)
        for draw in range(draws)
    ]
    return combined(attributor, parts, lds)


def agreement_of(scores: Tensor) -> float | None:
    """The mean cosine between two draws, over pairs and queries, of scores of shape (R, Q, N)."""
    pairs = list(combinations(range(len(scores)), 2))
    if not pairs:
        return None
    unit = torch.nn.functional.normalize(scores, dim=-1)
    return fmean(float((unit[one] * unit[other]).sum(-1).mean()) for one, other in pairs)


def groups_of(replica: Replica, rows: int) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """The class and the columns of every training row, as numbers and labels by name."""
    groups: dict[str, Tensor] = {}
    labels: dict[str, list[str]] = {}
    classes = classes_in(replica, replica.train_examples.chunks(ROWS))
    if classes is not None:
        groups["class"] = classes.clamp_min(-1)
        labels["class"] = [str(number) for number in range(int(classes.max().clamp_min(-1)) + 1)]
    for name, column in replica.objective.problem.columns.items():
        labels[name], groups[name] = grouped(column, name, rows)
    return groups, labels


def mean_correlation(correlations: Sequence[RankCorrelation]) -> RankCorrelation:
    """The mean over queries, of the correlation and of the ends of its interval."""

    def mean(name: str) -> float | None:
        known = [getattr(each, name) for each in correlations]
        present = [figure for figure in known if figure is not None]
        return fmean(present) if present else None

    return RankCorrelation(mean("value"), mean("low"), mean("high"))


def _lds(
    attributor: Attributor,
    parts: Sequence[DrawAttribution],
    influence: Tensor,
    lds: LdsSettings,
) -> tuple[list[RankCorrelation], int]:
    """The LDS of every query [Park2023], and the number of retrainings that diverged."""
    if not lds.retrainings:
        return [], 0
    predicted, actual = [], []
    diverged = 0
    for number in range(lds.retrainings):
        part = parts[number % len(parts)]
        after = part.retrained[number]
        if after is None:
            diverged += 1
            after = torch.full_like(part.scores.values, torch.inf)
        predicted.append(influence[:, lds.subset(number, attributor.rows)].sum(1))
        actual.append(after - part.scores.values)
    predictions, changes = torch.stack(predicted, 1), torch.stack(actual, 1)
    return [
        rank_correlation(one.tolist(), other.tolist())
        for one, other in zip(predictions, changes, strict=True)
    ], diverged


def _fields(correlation: RankCorrelation) -> dict[str, float | None]:
    return {"value": correlation.value, "low": correlation.low, "high": correlation.high}
