"""Models of transformers and adapters of PEFT: their losses, their data and their derivatives."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import peft
import pytest
import torch
import transformers as hf
from torch import Tensor

from drmad_client.export import pytorch
from drmad_client.records.job import PreflightReport
from drmad_client.spec.job import JobSpec
from drmad_client.spec.text import job_file
from drmad_workers import (
    L2,
    Forward,
    LearningRate,
    Problem,
    ProblemError,
    Replay,
    Reversible,
    SampleWeight,
    Stored,
    TrainingConfig,
    Tuner,
)
from drmad_workers.integrations import transformers
from drmad_workers.integrations.tokenized_data import Padding
from drmad_workers.preflight.proofs.wide_precision import widened
from drmad_workers.preflight.short_run import preflight
from tests.docs.pages import ROOT, blocks
from tests.workers.integrations.models import (
    CLASSES,
    bert,
    checkpointed,
    distilbert,
    gpt2,
    labelled,
    llama,
    lora,
    rows,
    seeded,
    stirred,
)
from tests.workers.judge.plain_training import Recipe
from tests.workers.judge.verdict import assert_right
from tests.workers.preflight.proofs.jobs import job, proofs

# PEFT 0.21 reads an attribute that transformers 5 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TRAINING = TrainingConfig(steps=3, batch_size=4, learning_rate=0.5, momentum=0.5)


@pytest.mark.parametrize("make", [bert, distilbert, checkpointed])
def test_every_exact_method_is_right_on_a_classifier(make: Callable[[], Any]) -> None:
    def build() -> Problem:
        return transformers.problem(stirred(make()), labelled(8, 0), labelled(6, 1))

    kinds = (SampleWeight(), L2(per="model", init=-4.0))
    assert_right(Recipe(build, kinds, TRAINING), [Stored(), Replay(), Reversible(), Forward()])


@pytest.mark.parametrize("make", [gpt2, llama, lora])
def test_every_exact_method_is_right_on_a_language_model(make: Callable[[], Any]) -> None:
    def build() -> Problem:
        problem = transformers.problem(stirred(make()), rows(8, 0), rows(6, 1), columns=["source"])
        return widened(problem)  # Llama's norms would round to float32

    kinds = (SampleWeight(per="source"), LearningRate(per="model"))
    assert_right(Recipe(build, kinds, TRAINING), [Stored(), Replay(), Reversible(), Forward()])


def test_the_proofs_pass_on_an_adapter() -> None:
    problem = transformers.problem(stirred(seeded(lora)), rows(16, 0), rows(8, 1))
    found = proofs(problem, job({"kind": "l2"}, steps=4, batch_size=4))
    assert [proof for proof in found.values() if proof.result == "failed"] == []
    assert "also where its code says float32" in found["second_derivatives"].detail


def labels_of(shape: tuple[int, ...], kind: str) -> Tensor:
    draw = torch.Generator().manual_seed(4)
    if kind == "real":
        return torch.randn(shape, generator=draw)
    labels = torch.randint(2 if kind == "several" else CLASSES, shape, generator=draw)
    if kind == "tokens":
        labels[0, :3] = -100
    return labels.float() if kind == "several" else labels


LOSSES: dict[str, tuple[Callable[[], Any], Tensor | None]] = {
    "classes": (bert, labels_of((4,), "classes")),
    "regression": (lambda: bert(num_labels=1), labels_of((4,), "real")),
    "several outputs": (lambda: bert(problem_type="regression"), labels_of((4, CLASSES), "real")),
    "several labels": (bert, labels_of((4, CLASSES), "several")),
    "tokens": (lambda: bert(hf.BertForTokenClassification), labels_of((4, 6), "tokens")),
    "masked": (lambda: bert(hf.BertForMaskedLM), labels_of((4, 6), "tokens")),
    "causal": (gpt2, None),
    "causal, labels": (llama, labels_of((4, 6), "tokens")),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_that_of_the_library(name: str) -> None:
    make, labels = LOSSES[name]
    model = stirred(seeded(make)).eval()
    content = Padding(0, predicts_itself=labels is None)(
        [{"input_ids": row["input_ids"]} for row in rows(4, 0)]
    )
    content |= {} if labels is None else {"labels": labels}
    problem = transformers.problem(model, content, content, per_token=True)
    assert problem.apply is not None
    with torch.no_grad():
        expected = model(**content).loss
        losses = problem.loss(problem.apply(model, content), content)
    assert losses.shape == (4,)
    torch.testing.assert_close(losses.mean(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [bert, gpt2, llama])
def test_the_loss_of_a_row_does_not_depend_on_the_padding(make: Callable[[], Any]) -> None:
    model = stirred(seeded(make)).eval()
    data = labelled(4, 0) if make is bert else rows(4, 0)
    problem = transformers.problem(model, data, data)
    apply, collate = problem.apply, problem.collate_fn
    assert apply is not None
    assert collate is not None

    def losses(*items: int) -> Tensor:
        content = collate([problem.train[item] for item in items])
        return problem.loss(apply(model, content), content)

    with torch.no_grad():
        alone = torch.cat([losses(item) for item in range(4)])
        torch.testing.assert_close(losses(*range(4)), alone, rtol=1e-5, atol=1e-6)


def test_perplexity_counts_all_tokens_alike() -> None:
    data = rows(7, 1)
    problem = transformers.problem(stirred(seeded(gpt2)), rows(8, 0), data)
    tuner = Tuner(problem, [L2()], TRAINING, Stored(), dtype=torch.float64)
    evaluation = tuner.evaluate(tuner.initial_values(), 0)
    model = seeded(gpt2).double().eval()
    model.load_state_dict(evaluation.model)
    losses: list[Tensor] = []
    with torch.no_grad():
        for row in data:
            tokens = torch.tensor([row["input_ids"]])
            logits = model(tokens).logits[0, :-1]
            losses.append(
                torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
            )
    by_row = torch.stack([each.mean() for each in losses]).mean()
    assert evaluation.validation_loss == pytest.approx(float(by_row), rel=1e-6)
    perplexity = float(torch.cat(losses).mean().exp())
    assert evaluation.metrics["validation_perplexity"] == pytest.approx(perplexity, rel=1e-6)


def losses_on(train: Any, collate: Any = None) -> tuple[float, float]:
    problem = transformers.problem(
        stirred(seeded(bert)), train, labelled(6, 1), collate_fn=collate, columns=["source"]
    )
    kinds = [SampleWeight(per="source")]
    tuner = Tuner(problem, kinds, TRAINING, Stored(), dtype=torch.float64)
    found = tuner.evaluate(tuner.initial_values(), 0)
    assert found.hypergradient["sample_weight"].shape == (2,)
    return found.validation_loss, found.metrics["validation_error"]


def test_every_form_of_the_data_trains_alike() -> None:
    data = labelled(8, 0)
    columns = {key: [row[key] for row in data] for key in data[0]}
    expected = losses_on(data)
    assert losses_on(columns) == expected
    assert losses_on(datasets.Dataset.from_list(data)) == expected
    assert losses_on(data, Padding(0, predicts_itself=False)) == expected


def test_tensors_stay_tensors() -> None:
    whole = Padding(0, False)(
        [{k: row[k] for k in ("input_ids", "label")} for row in labelled(8, 0)]
    )
    problem = transformers.problem(bert(), whole, whole)
    assert problem.collate_fn is None
    assert set(problem.train) == {"input_ids", "attention_mask", "labels"}


def test_an_adapter_comes_back_and_loads_into_peft(tmp_path: Path) -> None:
    problem = transformers.problem(seeded(lora), rows(8, 0), rows(6, 1))
    tuner = Tuner(problem, [L2()], TRAINING, Stored())
    evaluation = tuner.evaluate(tuner.initial_values(), 0)
    assert len(evaluation.model) == 4
    assert all("lora_" in name for name in evaluation.model)
    ups = [tensor for name, tensor in problem.model.state_dict().items() if "lora_B" in name]
    assert ups
    assert not any(tensor.any() for tensor in ups)  # as PEFT made them

    model = seeded(lora)
    arrays = {name: tensor.numpy() for name, tensor in evaluation.model.items()}
    pytorch.load_model(model, arrays)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(seeded(llama), tmp_path)
    for name, tensor in peft.get_peft_model_state_dict(again).items():
        expected = evaluation.model[name.replace(".weight", ".default.weight")]
        assert torch.equal(tensor, expected)


REFUSED: dict[str, tuple[Callable[[], Any], str, str]] = {
    "texts": (
        lambda: transformers.problem(bert(), [{"text": "a"}], labelled(4, 0)),
        "train",
        "tokenize the texts first",
    ),
    "no labels": (
        lambda: transformers.problem(bert(), labelled(4, 0), rows(4, 0)),
        "valid",
        "labels or label or label_ids",
    ),
    "no dicts": (
        lambda: transformers.problem(bert(), [[1, 2]], labelled(4, 0)),
        "train",
        "rows that are dicts",
    ),
    "no head": (
        lambda: transformers.problem(bert(hf.BertModel), labelled(4, 0), labelled(4, 0)),
        "model",
        "task=",
    ),
    "no column": (
        lambda: transformers.problem(bert(), labelled(4, 0), labelled(4, 0), columns=["city"]),
        "columns",
        "no 'city'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_by_field(name: str) -> None:
    build, field, words = REFUSED[name]
    with pytest.raises(ProblemError, match=words) as caught:
        build()
    assert caught.value.field == field


def test_the_missing_library_is_named_with_an_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.models.auto", None)
    monkeypatch.delitem(sys.modules, "drmad_workers.integrations.transformers")
    with pytest.raises(ModuleNotFoundError, match="pip install transformers peft datasets"):
        importlib.import_module("drmad_workers.integrations.transformers")


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = "docs/how-to/hugging-face.md"
    found = [block.text for block in blocks(ROOT / page) if block.language == "python"]
    exec(compile("\n".join(found), page, "exec"), {"__name__": "page"})
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every example has a module my_problem, which no other test may meet."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("my_problem", None)
    yield
    sys.modules.pop("my_problem", None)


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize("name", ["text-classification", "causal-lora"])
def test_the_proofs_pass_on_the_example(name: str) -> None:
    folder = ROOT / "examples" / name
    fields = job_file.read(folder / "job.yaml")
    fields["problem"]["code"] = f"sha256:{'0' * 64}"
    fields["training"]["steps"], fields["hypergradient"] = 4, {"method": "stored"}
    report = PreflightReport.model_validate(preflight(JobSpec.model_validate(fields), code=folder))
    assert [proof for proof in report.proofs if proof.result == "failed"] == []


@pytest.mark.usefixtures("own_module")
def test_the_examples_load_a_checkpoint(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "great", "awful", "screen", "the"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    hf.BertTokenizerFast.from_pretrained(str(tmp_path)).save_pretrained(tmp_path / "bert")
    model = seeded(lambda: bert(hf.BertForMaskedLM))
    model.save_pretrained(tmp_path / "bert")
    build = entrypoint(ROOT / "examples" / "text-classification")
    problem = build(checkpoint=str(tmp_path / "bert"))
    encoder = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(problem.model.state_dict()[encoder], model.state_dict()[encoder])
    assert {row["input_ids"][0] for row in problem.train} == {2}

    sys.modules.pop("my_problem")
    seeded(llama).save_pretrained(tmp_path / "llama")
    problem = entrypoint(ROOT / "examples" / "causal-lora")(checkpoint=str(tmp_path / "llama"))
    kept = problem.model.state_dict()["base_model.model.model.embed_tokens.weight"]
    assert torch.equal(kept, seeded(llama).model.embed_tokens.weight)


def entrypoint(folder: Path) -> Callable[..., Problem]:
    sys.path.insert(0, str(folder))
    build: Callable[..., Problem] = importlib.import_module("my_problem").build
    return build
