"""An ordinary training of a problem, by torch.optim and loss.backward() on the user's own module.

It takes from the engine the draws alone: the rows of every minibatch, and the seeds of w_0 and of
the noise of every step. Losses, penalties, weights and schedules are written out here by the
definitions of the kinds, so that an error of the engine cannot hide in a part that both use.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from drmad_workers import Batch, Problem, TrainingConfig
from drmad_workers.data.examples import Examples
from drmad_workers.data.minibatches import Minibatches
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.objective.parameters.weight_draw import reset_parameters
from drmad_workers.random_streams import WEIGHTS, Purpose, seed_of
from tests.workers.judge.contents import Contents
from tests.workers.judge.optimizers import clip_gradients, optimizer_of, set_rates
from tests.workers.judge.randomness import own_randomness, seed_everything
from tests.workers.judge.tuned import Layer, Tuned, first_group

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Recipe:
    """What is trained and tuned.

    Attributes:
        build: builds the problem. Every training builds its own: hooks and what Python code counts
            begin anew, and a deepcopy would lose the hooks of parameters.
        kinds: the tuned hyperparameters.
        training: the settings of the training run.
        seed: the seed of all random streams.
    """

    build: Callable[[], Problem]
    kinds: tuple[Kind, ...]
    training: TrainingConfig
    seed: int = 0

    def problem(self) -> Problem:
        """The problem as a new process builds it."""
        with own_randomness():
            seed_everything(0)
            return self.build()


@dataclass(frozen=True)
class Trained:
    """The validation loss at w_T, and the weights and buffers by state_dict name.

    Of a model with frozen parameters, those that are trained or have changed.
    """

    validation_loss: float
    model: dict[str, Tensor]


def plain_training(
    recipe: Recipe,
    values: Mapping[str, Tensor],
    draw: int = 0,
    dtype: torch.dtype = torch.float64,
    later: Mapping[int, Mapping[str, Tensor]] | None = None,
    steps: int | None = None,
) -> Trained:
    """Trains at the hyperparameters `values` (λ by name, before the transform).

    Args:
        recipe, values, draw, dtype: what is trained.
        later: other values from these steps on.
        steps: the steps after which it ends early; None for those of the recipe.
    """
    problem, training = recipe.problem(), recipe.training
    model = in_precision(problem.model, dtype)
    for name, parameter in model.named_parameters():
        group = first_group(training.groups, name)
        if group is not None and group.frozen:
            parameter.requires_grad_(False)
    train, valid = (Contents(problem, data, dtype) for data in (problem.train, problem.valid))
    rows = Minibatches(
        Examples(torch.empty(train.rows), "train", CPU, dtype),
        training.batch_size,
        (recipe.seed, draw, 0),
    )
    with own_randomness():
        draw_weights(problem, model, seed_of(WEIGHTS, recipe.seed, draw, 0), dtype)
        layers = [
            Layer(name, module, parameter) for name, module, parameter in parameters_of(model)
        ]
        tuned = Tuned(problem, recipe.kinds, training, layers, values, dtype)
        drawn = {name: t.detach().clone() for name, t in model.state_dict().items()}
        tuned.scale_weights()
        optimizer = optimizer_of(training, [layer.parameter for layer in layers])
        for step in range(training.steps if steps is None else steps):
            if later is not None and step in later:
                moved = later[step]
                tuned = Tuned(problem, recipe.kinds, training, layers, moved, dtype)
            optimizer.zero_grad()
            for part in range(training.accumulate):
                number = training.accumulate * step + part
                index = rows.index(number)
                batch = tuned.with_inputs(Batch(train.of(index, rows.seeds(number)), index))
                seed_everything(rows.step_seed(number))
                loss = tuned.training_loss(model, batch) / training.accumulate
                loss.backward()  # type: ignore[no-untyped-call]
            clip_gradients(training, [layer.parameter for layer in layers])
            set_rates(optimizer, tuned.rates(step))
            optimizer.step()
        model.eval()
        index, seed = torch.arange(valid.rows), seed_of(Purpose.ITEMS, recipe.seed)
        batch = Batch(valid.of(index, [seed + row for row in range(valid.rows)]), index)
        held_out_loss = float(tuned.held_out_loss(model, batch).detach())
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    return Trained(
        held_out_loss,
        {
            name: t.detach().clone()
            for name, t in model.state_dict(keep_vars=True).items()
            if not frozen or t.requires_grad or not torch.equal(t, drawn[name])
        },
    )


def draw_weights(problem: Problem, model: nn.Module, seed: int, dtype: torch.dtype) -> None:
    """w_0 as the problem draws it; a parameter that `initialize` adds is trained like any other."""
    seed_everything(seed)
    with torch.no_grad():
        if problem.initialize == "reset":
            reset_parameters(model)
        elif problem.initialize is not None:
            problem.initialize(model)
    in_precision(model, dtype)
    if not model.training:
        model.train()


def in_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with its floating-point numbers in `dtype`; complex numbers stay complex."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
        elif tensor.is_complex():
            tensor.data = tensor.data.to(dtype.to_complex())
    return model


def parameters_of(model: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """The trained parameters with the module that holds each; a shared one comes once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield name, module, parameter
