"""Minibatches of every structure, and data sets whose collate function pads."""

from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from drmad_workers import (
    L2,
    Batch,
    Hyperparameter,
    Implicit,
    LossWeight,
    Problem,
    ProblemError,
    Replay,
    SampleWeight,
    Shortcut,
    Stored,
    TrainingConfig,
    TrainingData,
    error_rate,
)
from drmad_workers.hyperparameters.base import Kind
from drmad_workers.replica_batch import ReplicaBatch
from tests.workers.cases.small import (
    BY_DIFFERENCES,
    CLASSES,
    EXACT,
    FEATURES,
    INPUTS,
    TARGETS,
    WIDTH,
    each_loss,
    perceptron,
    recipe_of,
)
from tests.workers.judge.verdict import assert_right, moved, tuner_of

TRAINING = TrainingConfig("sgd", steps=8, batch_size=10, learning_rate=0.2, momentum=0.5)
KINDS: tuple[Kind, ...] = (SampleWeight(), L2(per="model", init=-3.0))
VOCABULARY = 20


class Encoding(UserDict[str, Any]):
    """A mapping that is no dict, as that of a tokenizer."""


class Texts(Dataset[Any]):
    """Token ids of many lengths with a label, as Python lists."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, row: int) -> dict[str, Any]:
        row += self.start
        draw = torch.Generator().manual_seed(row)
        count = 2 + row % 4 + 3 * (row % 17 == 0)
        label = int(TARGETS[row])
        ids = torch.randint(1, VOCABULARY // 2, (count,), generator=draw) + 3 * label
        return {"input_ids": ids.tolist(), "label": label}


def padded(items: list[dict[str, Any]]) -> Encoding:
    """Writes into the items and returns a text as well, as collate functions in use do."""
    longest = max(len(item["input_ids"]) for item in items)
    for item in items:
        item["attention_mask"] = [1] * len(item["input_ids"])
        for key in ("input_ids", "attention_mask"):
            item[key] = item[key] + [0] * (longest - len(item[key]))
    names = ("input_ids", "attention_mask")
    made = {name: torch.tensor([item[name] for item in items]) for name in names}
    return Encoding(made, labels=torch.tensor([item.pop("label") for item in items]), task="texts")


class Logits(NamedTuple):
    """Outputs that are no tensor."""

    logits: Tensor
    hidden: Tensor


class Classifier(nn.Module):
    """The mean of the embeddings of a text, without those of the padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Logits:
        mask = attention_mask[:, :, None]
        hidden = (self.embedding(input_ids) * mask).sum(1) / mask.sum(1)
        return Logits(self.last(hidden.tanh()), hidden)


def text_loss(outputs: Logits, content: Encoding) -> Tensor:
    return each_loss(outputs.logits, content["labels"])


def texts(**options: Any) -> Problem:
    return Problem(
        Classifier(), Texts(0, 60), Texts(60, 100), loss=text_loss, collate_fn=padded, **options
    )


@dataclass(frozen=True)
class Examples:
    """Columns as a dataclass; the sum of the features is a part of it."""

    features: Tensor
    answers: Tensor
    sums: Tensor


def columns(part: slice, make: Callable[..., Any]) -> Any:
    return make(INPUTS[part].clone(), TARGETS[part].clone(), INPUTS[part].sum(1, keepdim=True))


def in_columns(make: Callable[..., Any], **options: Any) -> Problem:
    parts = [columns(part, make) for part in (slice(0, 60), slice(60, 100))]
    return Problem(options.pop("model", perceptron()), *parts, **options)


class Two(nn.Module):
    """Takes two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, features: Tensor, sums: Tensor) -> Tensor:
        hidden = (self.first(features) + sums).tanh()
        outputs: Tensor = self.last(hidden)
        return outputs


def triple() -> Problem:
    return in_columns(
        lambda *parts: parts,
        model=Two(),
        apply=lambda model, content: model(content[0], content[2]),
        loss=lambda outputs, content: each_loss(outputs, content[1]),
    )


def a_dataclass() -> Problem:
    return in_columns(
        Examples,
        apply=lambda model, content: model(content.features),
        loss=lambda outputs, content: each_loss(outputs, content.answers),
    )


def mapping() -> Problem:
    return in_columns(
        lambda features, answers, sums: {"features": features, "y": answers, "sums": sums},
        model=Two(),
        loss=lambda outputs, content: each_loss(outputs, content["y"]),
    )


def pair_with_names() -> Problem:
    return in_columns(
        lambda features, answers, sums: ({"features": features, "sums": sums}, answers),
        model=Two(),
    )


def pair_of_two() -> Problem:
    return in_columns(
        lambda features, answers, sums: ((features, sums), answers),
        model=Two(),
    )


STRUCTURES = {
    "padded texts": texts,
    "a tuple of three": triple,
    "a dataclass": a_dataclass,
    "a mapping": mapping,
    "a pair of a mapping and targets": pair_with_names,
    "a pair of two inputs and targets": pair_of_two,
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_minibatches_of_every_structure(name: str) -> None:
    assert_right(recipe_of(STRUCTURES[name], KINDS, TRAINING), EXACT)


def test_products_by_differences_of_padded_minibatches() -> None:
    assert_right(recipe_of(texts, KINDS, TRAINING), BY_DIFFERENCES)


def test_weights_of_classes_that_the_problem_finds_in_the_content() -> None:
    def build() -> Problem:
        return texts(targets=lambda content: content["labels"])

    assert_right(recipe_of(build, (LossWeight(),), TRAINING), EXACT[:1])
    with pytest.raises(ProblemError, match="state the problem's targets") as error:
        tuner_of(recipe_of(texts, (LossWeight(),), TRAINING), Stored())
    assert error.value.field == "hyperparameters.loss_weight"


def test_inputs_in_padded_minibatches_are_not_tuned() -> None:
    with pytest.raises(ProblemError, match="one tensor of floating point") as error:
        tuner_of(recipe_of(texts, (TrainingData(),), TRAINING), Stored())
    assert error.value.field == "hyperparameters.training_data"


def own_loss(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Takes the labels out of the content, as training loops in use do."""
    labels = batch.content.pop("labels")
    outputs = forward(batch.content["input_ids"], batch.content["attention_mask"])
    return (each_loss(outputs.logits, labels) * tuned["h"][labels]).mean()


def test_losses_of_ones_own_take_the_content() -> None:
    def build() -> Problem:
        stated = {"h": Hyperparameter(torch.tensor([0.3, -0.2, 0.1]), "exp")}
        return texts(inner_loss=own_loss, hyperparameters=stated)

    assert_right(recipe_of(build, training=TRAINING), EXACT)


def test_minibatches_that_are_no_pair_have_no_inputs() -> None:
    batch = Batch(Encoding(input_ids=torch.ones(2, 3), labels=torch.ones(2)), torch.arange(2))
    with pytest.raises(ProblemError, match="got a Encoding of input_ids, labels: take its parts"):
        _ = batch.inputs


@pytest.mark.parametrize("field", ["collate_fn", "apply", "targets"])
def test_fields_that_must_be_functions(field: str) -> None:
    stated: Any = {field: [1, 2]}
    with pytest.raises(ProblemError, match=f"{field} must be a function, got a list of 2") as error:
        replace(mapping(), **stated)
    assert error.value.field == field


def test_joined_minibatches_have_the_mean_loss_whatever_their_padding() -> None:
    tuner = tuner_of(recipe_of(texts, KINDS, TRAINING), Stored())
    minibatches, inner = tuner.replica.minibatches(0), tuner.objective.inner
    lengths = {minibatches.join(step).content["input_ids"].shape for step in range(6)}
    assert len(lengths) > 1
    apart = torch.stack([inner.loss(minibatches.join(step)) for step in range(6)])
    assert inner.loss(minibatches.join(0, 6)).item() == pytest.approx(apart.mean().item(), 1e-14)


@pytest.mark.parametrize("method", [Shortcut(max_stride=4), Implicit()])
def test_methods_that_join_minibatches(method: Shortcut | Implicit) -> None:
    """They are approximate: the padded minibatches give what equal ones of tensors give."""
    same_length = Texts(0, 60), Texts(60, 100)

    def to_tensors() -> Problem:
        made = texts()
        train, valid = (padded([data[i] for i in range(len(data))]) for data in same_length)
        columns = [{k: v for k, v in part.items() if k != "task"} for part in (train, valid)]
        return replace(made, train=columns[0], valid=columns[1], collate_fn=None)

    found = []
    for build in (texts, to_tensors):
        tuner = tuner_of(recipe_of(build, KINDS, TRAINING), method)
        found.append(tuner.evaluate(moved(tuner.initial_values(), 0.1), 0).hypergradient)
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-9, atol=1e-12)


def test_curvature_of_outputs_that_are_no_tensor() -> None:
    """The Gauss-Newton product of a structure is that of its tensor."""
    method, found = Shortcut(curvature="gauss_newton"), []
    for build in (texts, plain_logits):
        tuner = tuner_of(recipe_of(build, KINDS, TRAINING), method)
        found.append(tuner.evaluate(tuner.initial_values(), 0).hypergradient)
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-12, atol=1e-14)


def plain_outputs(model: nn.Module, content: Encoding) -> Tensor:
    logits: Tensor = model(content["input_ids"], content["attention_mask"]).logits
    return logits


def plain_logits() -> Problem:
    """The same texts with outputs that are one tensor."""
    return replace(
        texts(),
        apply=plain_outputs,
        loss=lambda outputs, content: each_loss(outputs, content["labels"]),
        metrics={"error": lambda outputs, content: error_rate(outputs, content["labels"])},
    )


def test_metrics_take_the_content() -> None:
    tuner = tuner_of(recipe_of(plain_logits, KINDS, TRAINING), Stored())
    evaluation = tuner.evaluate(tuner.initial_values(), 0)
    model, valid = Classifier().double(), Texts(60, 100)
    model.load_state_dict(evaluation.model)
    content = padded([valid[row] for row in range(40)])
    expected = error_rate(plain_outputs(model, content), content["labels"])
    assert evaluation.metrics["validation_error"] == pytest.approx(expected.item())


def together(build: Callable[[], Problem]) -> ReplicaBatch:
    made = build()
    return ReplicaBatch(made, KINDS, TRAINING, Replay(), replicas=(0, 1), dtype=torch.float64)


@pytest.mark.parametrize("name", STRUCTURES)
def test_replicas_side_by_side(name: str) -> None:
    """They are computed as a batch unless a collate function makes their minibatches."""
    replicas = together(STRUCTURES[name])
    values = replicas.initial_values()
    expected = [tuner.evaluate(values, 0).hypergradient for tuner in replicas.tuners]
    assert (replicas.reason is None) == (name != "padded texts")
    for found, own in zip(replicas.evaluate(values, 0), expected, strict=True):
        for key in own:
            torch.testing.assert_close(found.hypergradient[key], own[key], rtol=1e-9, atol=1e-12)


def test_a_model_that_cannot_take_the_content_names_apply() -> None:
    def build() -> Problem:
        return in_columns(lambda *parts: ({"a": parts[0], "b": parts[2]}, parts[1]), model=Two())

    with pytest.raises(ProblemError, match=r"\(features: .*, sums: .*apply") as error:
        tuner_of(recipe_of(build, KINDS, TRAINING), Stored())
    assert error.value.field == "problem.apply"


def test_a_loss_of_another_shape_is_refused_by_rows() -> None:
    def build() -> Problem:
        def loss(outputs: Tensor, content: Any) -> Any:
            return {"loss": outputs.sum()}

        return replace(mapping(), loss=loss)

    with pytest.raises(ProblemError, match=r"shape \(10,\), got a dict of loss") as error:
        tuner_of(recipe_of(build, KINDS, TRAINING), Stored())
    assert error.value.field == "problem.loss"
