"""The values of the next trial of a search, as a function of the earlier trials.

[Bergstra2011] Algorithms for hyper-parameter optimization, NeurIPS 2011.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from drmad_workers.random_streams import Purpose, seed_of

KnownTrial = tuple[Mapping[str, Any], float | None]
"""The values of a trial and its validation loss; None if the trial has no loss."""


def propose(
    parameters: Mapping[str, Mapping[str, Any]],
    sampler: str,
    seed: int,
    number: int,
    known: Sequence[KnownTrial],
) -> dict[str, Any]:
    """The values of trial `number`, a deterministic function of the arguments.

    Args:
        parameters: by path, the fields of SearchRange or SearchChoices
            (drmad_client.spec.outer.search).
        sampler: "tpe" [Bergstra2011] or "random", both as implemented by Optuna.
        seed: the seed of the job.
        number: the number of the trial, which selects its random stream.
        known: the trials whose outcome may be used, in ascending order of their numbers.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler_seed = seed_of(Purpose.SEARCH, seed, number) % 2**32
    optuna_sampler = (
        optuna.samplers.TPESampler(
            seed=sampler_seed, n_startup_trials=min(10, 2 + 2 * len(parameters))
        )
        if sampler == "tpe"
        else optuna.samplers.RandomSampler(seed=sampler_seed)
    )
    distributions = {path: _distribution(options) for path, options in parameters.items()}
    study = optuna.create_study(sampler=optuna_sampler)
    for values, loss in known:
        # A trial that diverged ranks last, so that the sampler avoids its neighbourhood.
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
