"""Kernels and modules of torch whose second derivatives are missing or written for one pass."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from drmad_workers import L2, Problem
from drmad_workers.hypergradients import Auto
from drmad_workers.hyperparameters.base import Kind
from tests.workers.cases.small import (
    BY_DIFFERENCES,
    CLASSES,
    EXACT,
    FEATURES,
    INPUTS,
    TRAINING,
    WIDTH,
    problem_of,
    recipe_of,
)
from tests.workers.judge.verdict import (
    Refusal,
    assert_right,
    assert_right_or_refused,
)

SHORT = replace(TRAINING, steps=10)
"""What a kernel computes does not depend on the number of steps."""
NOT_TWICE = Refusal(("hypergradient.hvp",), "finite_difference")


class Attention(nn.Module):
    """Attention over the features of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(1, 3 * WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        query, key, value = self.embed(inputs[:, None, :, None]).chunk(3, -1)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        outputs: Tensor = self.last(attended[:, 0].mean(1))
        return outputs


class Encoder(nn.Module):
    def __init__(self, dropout: float = 0.1, norm_first: bool = False) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(1, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 2 * WIDTH, dropout, "gelu", batch_first=True, norm_first=norm_first
        )

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.layer(self.embed(inputs[:, :, None])).mean(1))
        return outputs


class WithWeights(nn.Module):
    """Multi-head attention that returns its weights, by another kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.last = nn.Linear(1, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        embedded = self.embed(inputs[:, :, None])
        attended, _ = self.attention(embedded, embedded, embedded, need_weights=True)
        outputs: Tensor = self.last(attended.mean(1))
        return outputs


class Recurrent(nn.Module):
    def __init__(self, recurrent: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.recurrent = recurrent(1, WIDTH, batch_first=True, num_layers=2, dropout=0.2)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden, _ = self.recurrent(inputs[:, :, None])
        outputs: Tensor = self.last(hidden[:, -1])
        return outputs


KERNELS: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "encoder layer": Encoder,
    "encoder layer, norm first, without dropout": lambda: Encoder(0.0, norm_first=True),
    "attention with weights": WithWeights,
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_are_right_by_differences_and_twice_where_they_can(name: str) -> None:
    recipe = recipe_of(lambda: problem_of(KERNELS[name]()), training=SHORT)
    assert_right(recipe, BY_DIFFERENCES)
    assert_right_or_refused(recipe, [*EXACT, Auto()], NOT_TWICE)


def weight_norm(model: Callable[[nn.Module], nn.Module]) -> Callable[[], Problem]:
    def build() -> Problem:
        first = model(nn.Conv1d(1, WIDTH, 3, padding=1))
        second = model(nn.Conv1d(WIDTH, 4, 3, padding=1))
        rest = (nn.Tanh(), nn.Flatten(), nn.Linear(4 * FEATURES, CLASSES))
        unflat = nn.Unflatten(1, (1, FEATURES))
        return problem_of(nn.Sequential(unflat, first, nn.Tanh(), second, *rest), None)

    return build


NORMS: dict[str, Callable[[], Problem]] = {
    "weight norm": weight_norm(torch.nn.utils.parametrizations.weight_norm),
    "orthogonal": lambda: problem_of(
        nn.Sequential(
            nn.utils.parametrizations.orthogonal(nn.Linear(FEATURES, FEATURES)),
            nn.Tanh(),
            nn.Linear(FEATURES, CLASSES),
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_penalties_of_parametrized_weights(name: str) -> None:
    kinds: tuple[Kind, ...] = (L2(per="layer", init=-5.0),)
    assert_right(recipe_of(NORMS[name], kinds, SHORT), [*EXACT, *BY_DIFFERENCES])


class Checkpointed(nn.Module):
    """Computes its middle layer again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(WIDTH, CLASSES)
        self.reentrant = reentrant

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(inputs))
        again = checkpoint(self.inner, hidden, use_reentrant=self.reentrant)
        outputs: Tensor = self.last(again)
        return outputs

    def inner(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.middle(self.drop(hidden)))


@pytest.mark.parametrize("method", [*EXACT, *BY_DIFFERENCES], ids=lambda m: f"{m.name}-{m.hvp}")
def test_reentrant_checkpoints(method: object) -> None:
    def remedied() -> Problem:
        return problem_of(Checkpointed(reentrant=False))

    refusal = Refusal(("model", "problem.inner_loss"), "use_reentrant=False", remedied)
    recipe = recipe_of(lambda: problem_of(Checkpointed(reentrant=True)), training=SHORT)
    assert_right_or_refused(recipe, [method], refusal)  # type: ignore[list-item]


def test_checkpoints_that_are_not_reentrant() -> None:
    recipe = recipe_of(lambda: problem_of(Checkpointed(reentrant=False)), training=SHORT)
    assert_right(recipe, [*EXACT[:3], *BY_DIFFERENCES])


class Table(nn.Module):
    """Averages the embeddings of six numbers."""

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table, self.last = table, nn.Linear(WIDTH, CLASSES)

    def forward(self, codes: Tensor) -> Tensor:
        embedded = self.table(codes)
        outputs: Tensor = self.last(embedded.mean(1) if embedded.ndim == 3 else embedded)
        return outputs


CODES = (INPUTS * 2).long().clamp(-4, 4) + 4
TABLES: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "embedding": (
        lambda: nn.Embedding(9, WIDTH, sparse=True),
        lambda: nn.Embedding(9, WIDTH),
    ),
    "embedding with padding": (
        lambda: nn.Embedding(9, WIDTH, padding_idx=4, sparse=True),
        lambda: nn.Embedding(9, WIDTH, padding_idx=4),
    ),
    "bags": (
        lambda: nn.EmbeddingBag(9, WIDTH, mode="sum", sparse=True),
        lambda: nn.EmbeddingBag(9, WIDTH, mode="sum"),
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_sparse_gradients(name: str) -> None:
    """Bags have no second derivatives, sparse or not."""
    sparse, dense = TABLES[name]
    refusal = Refusal(
        ("model",), "without sparse|sparse=False", lambda: problem_of(Table(dense()), inputs=CODES)
    )
    recipe = recipe_of(lambda: problem_of(Table(sparse()), inputs=CODES))
    assert_right_or_refused(recipe, BY_DIFFERENCES if name == "bags" else EXACT, refusal)


def given_table(**options: Any) -> Callable[[], Problem]:
    """A table whose padding row is not 0, as that of a pretrained model need not be."""

    def build() -> Problem:
        table = nn.Embedding(9, WIDTH, **options)
        with torch.no_grad():
            table.weight.copy_(torch.linspace(-1, 1, table.weight.numel()).view(9, WIDTH))
        return problem_of(Table(table), None, inputs=CODES, initialize=None)

    return build


@pytest.mark.parametrize(
    "options",
    [
        {"padding_idx": 4},
        {"scale_grad_by_freq": True},
        {"padding_idx": -2, "scale_grad_by_freq": True},
    ],
)
def test_tables_whose_gradient_is_not_that_of_the_loss(options: dict[str, Any]) -> None:
    """The penalty moves the padding row, which the gradient of the loss leaves alone."""
    kinds: tuple[Kind, ...] = (L2(per="layer", init=-4.0),)
    assert_right(recipe_of(given_table(**options), kinds, SHORT), EXACT)


class Bent(nn.Module):
    """A network whose hidden layer passes a function."""

    def __init__(self, bend: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.bend = nn.Linear(6, WIDTH), nn.Linear(WIDTH, CLASSES), bend

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.bend(self.first(inputs)))
        return outputs


def potential(row: Tensor) -> Tensor:
    return torch.tanh(row).square().sum()


BENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "gradient": torch.func.vmap(torch.func.grad(potential)),
    "vector-Jacobian product": lambda values: torch.func.vjp(torch.tanh, values)[1](values)[0],
    "Hessian": lambda values: torch.func.vmap(torch.func.hessian(potential))(values).sum(-1),
    "fake quantization": lambda values: torch.fake_quantize_per_tensor_affine(
        values, 0.1, 0, -64, 63
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # in torch.func.hessian
@pytest.mark.parametrize("name", BENDS)
def test_transforms_of_torch_func_and_values_on_a_grid(name: str) -> None:
    assert_right(recipe_of(lambda: problem_of(Bent(BENDS[name])), training=SHORT), EXACT)
