"""What the next trial of a search tries, as a function of the trials before it.

[Bergstra2011] Algorithms for hyper-parameter optimization, NeurIPS 2011.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from drmad_workers.data.minibatches import seed_of

SEARCH = 21

Known = tuple[Mapping[str, Any], float | None]
"""The values of a trial and its validation loss; None where it gave none."""


def propose(
    parameters: Mapping[str, Mapping[str, Any]],
    sampler: str,
    seed: int,
    number: int,
    known: Sequence[Known],
) -> dict[str, Any]:
    """The values of trial `number`: the same after the same trials, whoever asks and when.

    Args:
        parameters: by path, the fields of drmad_client.spec.search.SearchRange or SearchChoices.
        sampler: "tpe" [Bergstra2011] or "random", Optuna's.
        known: the trials whose outcome may be used, in their order.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn = seed_of(SEARCH, seed, number) % 2**32
    chosen = (
        optuna.samplers.TPESampler(seed=drawn, n_startup_trials=min(10, 2 + 2 * len(parameters)))
        if sampler == "tpe"
        else optuna.samplers.RandomSampler(seed=drawn)
    )
    distributions = {path: _distribution(options) for path, options in parameters.items()}
    study = optuna.create_study(sampler=chosen)
    for values, loss in known:
        # What diverged is worse than anything else, and tells where not to look.
        value = float("inf") if loss is None else loss
        trial = optuna.trial.create_trial(
            params=dict(values), distributions=distributions, value=value
        )
        study.add_trial(trial)
    proposed: dict[str, Any] = study.ask(distributions).params
    return proposed


def _distribution(options: Mapping[str, Any]) -> Any:
    from optuna import distributions

    if "choices" in options:
        return distributions.CategoricalDistribution(tuple(options["choices"]))
    low, high, log = options["low"], options["high"], options["log"]
    if options["integer"]:
        return distributions.IntDistribution(int(low), int(high), log=log)
    return distributions.FloatDistribution(low, high, log=log)
