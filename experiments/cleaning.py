"""Tasks that look for wrong labels and train without them, in plain PyTorch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import fmean

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from experiments.results import Result
from experiments.row_scores import WAYS, draw_of
from experiments.tasks import Task
from experiments.weighted_training import Noisy, figures, noisy, trained

FINALS = 3
"""Final trainings, whose figures are averaged; the cost of a result counts one."""
FIRST_FINAL = 100


@dataclass(frozen=True)
class Cleaned(Task):
    """A way of `row_scores` and a final training on what it keeps.

    Attributes:
        way: a name of WAYS.
        clean: whether the clean rows train too, in the way and at the end; each with weight one.
        lowest: drop as many rows of the lowest scores as there are wrong labels, in the place of
            the rows that the way itself drops.
    """

    way: str = "filter"
    clean: bool = False
    lowest: bool = False


def clean(task: Cleaned) -> Result:
    """The figures of the final training, and how well the scores tell the wrong labels."""
    torch.set_num_threads(1)
    began = time.process_time()
    problem = noisy(task.spec)
    found = WAYS[task.way](problem, task.seed, task.clean)
    wrong = problem.wrong
    lowest = found.scores.argsort(stable=True)[: int(wrong.sum())]
    nets = found.nets
    if task.lowest:
        weights = torch.ones(problem.rows).index_fill(0, lowest, 0.0)
        nets = final_nets(problem, task, weights)
    elif nets is None:
        nets = final_nets(problem, task, found.weights)
    each = [figures(problem, net) for net in nets]
    metrics = {name: fmean(one[name] for one in each) for name in each[0]}
    metrics["label_noise_precision"] = float(wrong[lowest].double().mean())
    metrics["label_noise_auc"] = float(roc_auc_score(wrong.numpy(), -found.scores.numpy()))
    result = Result(task.case, task.arm, task.seed, task.key)
    result.validation_loss = [metrics.pop("validation_loss")]
    result.metrics = {name: [value] for name, value in metrics.items()}
    result.cost = found.cost + (0.0 if nets is found.nets else 1.0)
    kept = found.weights > 0
    result.figures = {
        "kept": int(kept.sum()),
        "wrong_kept": int((kept & wrong).sum()),
        "right_dropped": int((~kept & ~wrong).sum()),
    }
    result.seconds["total"] = time.process_time() - began
    return result


def final_nets(problem: Noisy, task: Cleaned, weights: Tensor) -> list[torch.nn.Module]:
    """Trained on the rows with a weight above 0, and on the clean rows if they may train."""
    kept = weights > 0
    rows = problem.kept(kept, task.clean)
    own = weights[kept]
    every = torch.cat([own, torch.ones(len(rows[1]) - len(own))])
    return [
        trained(problem, rows, draw_of(task.seed, FIRST_FINAL + number), every)
        for number in range(FINALS)
    ]
