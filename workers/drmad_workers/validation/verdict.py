"""What a validation means, in a sentence, and what to change."""

from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from drmad_client.spec import defaults
from drmad_workers.hypergradients.agreement import DrawAgreement
from drmad_workers.tuning import Tuner
from drmad_workers.validation.mean_interval import MeanInterval
from drmad_workers.validation.rank_correlation import RankCorrelation

PREDICTS = 0.8
"""From this LDS on a hypergradient predicts retraining."""

IN_PART = 0.5
"""From this LDS on it predicts retraining in part."""

CARRIES = defaults.Fidelity.agreement
"""The least agreement between draws at which one draw says enough of another."""

APPROXIMATES = 0.8
"""The least cosine to the exact hypergradient at which the method is not the weakness."""

Grade = Literal["predicts", "in_part", "own_run_only", "does_not_predict", "unknown"]

_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d)
_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
_KINKS = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.PReLU)


@dataclass(frozen=True)
class Findings:
    """The figures that decide; see ValidationReport."""

    lds: dict[str, RankCorrelation]
    fidelity: float | None
    agreement: DrawAgreement | None
    gain: MeanInterval | None


@dataclass(frozen=True)
class Verdict:
    """
    Attributes:
        grade: "predicts", what to hope for; "in_part"; "own_run_only", other draws of weights and
            minibatches have other hypergradients; "does_not_predict"; "unknown".
        sentence: what it means.
        remedies: what to change, the most useful first; empty if nothing needs to change.
    """

    grade: Grade
    sentence: str
    remedies: list[str]


def verdict(findings: Findings, tuner: Tuner) -> Verdict:
    """The verdict on a hypergradient, by the hyperparameter of the lowest LDS."""
    known = {name: each.value for name, each in findings.lds.items() if each.value is not None}
    if not known:
        return Verdict(
            "unknown",
            "No change of the hyperparameters moved both the prediction and the validation loss, "
            "so that there is nothing to compare.",
            ["check that the validation loss depends on the hyperparameters"],
        )
    name = min(known, key=lambda each: known[each])
    lds = known[name]
    told = f"rank correlation {lds:.2f}"
    if len(known) > 1:
        told += f" of {name}, the lowest"
    agreement, fidelity = findings.agreement, findings.fidelity
    carries = agreement is None or agreement.cosine >= CARRIES
    if lds >= PREDICTS and carries:
        beside = ""
        if agreement is not None:
            cosine = f"cosine {agreement.cosine:.2f}"
            beside = f", and hypergradients of other draws agree with it ({cosine})"
        return Verdict(
            "predicts",
            f"The hypergradient predicts what retraining does ({told}){beside}.",
            _step_remedies(findings),
        )
    if lds >= PREDICTS:
        assert agreement is not None
        return Verdict(
            "own_run_only",
            f"The hypergradient predicts the training run that it comes from ({told}), and says "
            "little of one with other weights and minibatches (cosine between draws "
            f"{agreement.cosine:.2f}).",
            [_averaging(agreement), *smoother_training(tuner), *_step_remedies(findings)],
        )
    grade: Grade = "in_part" if lds >= IN_PART else "does_not_predict"
    how = "in part" if grade == "in_part" else "badly"
    sentence = f"The hypergradient predicts what retraining does {how} ({told})"
    if fidelity is not None and fidelity < APPROXIMATES and carries:
        return Verdict(
            grade,
            f"{sentence}, because the method is off the exact hypergradient (cosine "
            f"{fidelity:.2f}).",
            ["hypergradient: {method: auto}, or an exact method such as {method: replay}"],
        )
    averaging = [] if agreement is None else [_averaging(agreement)]
    return Verdict(
        grade,
        f"{sentence}: training is not smooth, so that no hypergradient of a single run helps much.",
        [*smoother_training(tuner), *averaging],
    )


def smoother_training(tuner: Tuner) -> list[str]:
    """What makes the result of this training a smoother function of the hyperparameters."""
    replica = tuner.replica
    training, model = replica.training, replica.objective.parameters.model
    modules = list(model.modules())
    found = [f"a lower learning rate than {training.learning_rate:g} (training.learning_rate)"]
    warmup = getattr(training.schedule, "warmup", 0)
    how = "a longer warm-up" if warmup else "a warm-up"
    found.append(f"{how} of the learning rate (training.schedule.warmup)")
    if any(isinstance(module, _POOLS) for module in modules):
        found.append("average pooling in the place of maximum pooling")
    if any(isinstance(module, _KINKS) for module in modules) and not any(
        isinstance(module, _NORMS) for module in modules
    ):
        found.append("batch norm before the activation")
    horizon = max(1, training.steps // 10)
    found.append(f"a shorter horizon: hypergradient: {{method: shortcut, horizon: {horizon}}}")
    return found


def _averaging(agreement: DrawAgreement) -> str:
    return (
        "averaging over draws: with replicas: {count: 4} the expected cosine between draws is "
        f"{agreement.averaged(4):.2f}"
    )


def _step_remedies(findings: Findings) -> list[str]:
    gain = findings.gain
    if gain is not None and gain.high is not None and gain.high < 0.0:
        return ["a smaller outer step (meta.learning_rate): this one raises the validation loss"]
    return []
