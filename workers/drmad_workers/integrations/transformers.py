"""Problems from models of Hugging Face's transformers, and of PEFT on top of them.

from drmad_workers.integrations import transformers

problem = transformers.problem(model, train, valid)
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from drmad_workers.errors import ProblemError
from drmad_workers.integrations.tasks import ProblemType, TaskName, task_of
from drmad_workers.integrations.tokenized_data import Padding, TokenizedRows, column_of
from drmad_workers.problem import Collate, Initialize, Problem

try:
    from transformers.models.auto import modeling_auto
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "drmad_workers.integrations.transformers needs the package transformers, which is not "
        "installed: pip install transformers peft datasets"
    ) from error

CLASSES: dict[TaskName, Sequence[str]] = {
    "classification": (
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    ),
    "token_classification": ("MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",),
    "masked_lm": ("MODEL_FOR_MASKED_LM_MAPPING_NAMES",),
    "causal_lm": ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",),
}
"""Transformers' lists of the classes of each task."""


def problem(
    model: nn.Module,
    train: Any,
    valid: Any,
    test: Any = None,
    *,
    task: TaskName | None = None,
    collate_fn: Collate | None = None,
    columns: Sequence[str] = (),
    per_token: bool = False,
    initialize: Initialize = None,
) -> Problem:
    """A problem that trains a model of transformers, or an adapter of PEFT on one.

    The loss is that of the task, taken from the logits; labels do not enter the model. The loss of
    a row is its cross entropy (classification), the mean square over its outputs (regression), the
    mean binary cross entropy (several labels), or the mean over its tokens whose labels are not
    -100, where a causal language model predicts the next token. Metrics are `error` or
    `perplexity`, the latter over all tokens.

    Args:
        model: a PreTrainedModel or a PeftModel. Parameters with `requires_grad=False` are not
            trained.
        train: tokenized rows: a `datasets.Dataset`, a list of dicts, another map-style data set of
            dicts, or a dict of columns. The labels are `labels`, `label` or `label_ids`; a causal
            language model without them predicts its input. Columns that the model does not take
            are left out.
        valid: the held-out rows, in the same form.
        test: rows that are reported and never used to choose, in the same form.
        task: what the head is trained for; by default that of the model's class.
        collate_fn: makes a minibatch, a mapping with `labels`, from a list of rows, such as a data
            collator of transformers. By default rows are padded on the right to the longest, labels
            with -100.
        columns: names of columns of `train` with a value per row, such as the source, which
            SampleWeight forms groups by.
        per_token: weighs all tokens of a minibatch alike, which is the loss of transformers and of
            its Trainer. By default all rows count alike.
        initialize: see Problem.
    Returns:
        The problem; `dataclasses.replace` changes parts of it, such as `outer_loss`.
    Raises:
        ProblemError: the task of the model is not known, or the data lack columns.
    """
    base = base_of(model)
    taken = taken_by(base)
    name = task or task_by_class(base)
    is_causal = name == "causal_lm"
    data = {"train": train, "valid": valid} | ({} if test is None else {"test": test})
    needs_labels = collate_fn is None and not is_causal
    rows = {key: TokenizedRows(each, key, taken, needs_labels) for key, each in data.items()}
    losses = task_of(name, problem_type_of(base, rows["train"]), per_token)
    content: dict[str, Any] = dict(rows)
    if collate_fn is None:
        collate_fn = padding = Padding(pad_id_of(base), is_causal)
        whole = {key: each.tensors() for key, each in rows.items()}
        if None not in whole.values():
            content = {key: padding.with_labels(each) for key, each in whole.items() if each}
            collate_fn = None
    return Problem(
        model,
        content["train"],
        content["valid"],
        content.get("test"),
        loss=losses.loss,
        metrics=losses.metrics,
        columns={column: column_of(train, column) for column in columns},
        initialize=initialize,
        collate_fn=collate_fn,
        apply=application_without_cache if "use_cache" in taken else application,
        targets=losses.targets,
    )


def application(model: nn.Module, content: Any, **options: Any) -> Tensor:
    """The logits of a model on a minibatch without its labels."""
    inputs = {key: value for key, value in content.items() if key != "labels"}
    logits: Tensor = model(**inputs, return_dict=True, **options).logits
    return logits


def application_without_cache(model: nn.Module, content: Any) -> Tensor:
    """The same for a model that keeps keys and values for generation unless told otherwise."""
    return application(model, content, use_cache=False)


def base_of(model: nn.Module) -> nn.Module:
    """The model of transformers itself, of which PEFT has replaced some modules."""
    adapted: Any = model
    base: nn.Module = adapted.get_base_model() if hasattr(model, "get_base_model") else model
    return base


def taken_by(base: nn.Module) -> set[str]:
    """The names of the columns that the model's forward takes, without the labels."""
    parameters = inspect.signature(base.forward).parameters.values()
    return {each.name for each in parameters if each.kind is not each.VAR_KEYWORD} - {"labels"}


def task_by_class(base: nn.Module) -> TaskName:
    """The task of the model's class, or of the class of transformers from which it descends.

    Raises:
        ProblemError: the class is in no list of CLASSES.
    """
    for ancestor in type(base).__mro__:
        for name, lists in CLASSES.items():
            if any(ancestor.__name__ in getattr(modeling_auto, each).values() for each in lists):
                return name
    raise ProblemError(
        f"model must have a head for one of {', '.join(CLASSES)}, got {type(base).__name__}: name "
        "the task by task=, or state a Problem with a loss of your own",
        "model",
    )


def problem_type_of(base: nn.Module, rows: TokenizedRows) -> ProblemType:
    """What a head for classification predicts, by the rule of transformers."""
    config: Any = base.config
    stated: ProblemType | None = config.problem_type
    if stated is not None or not len(rows):
        return stated or "single_label_classification"
    if config.num_labels == 1:
        return "regression"
    is_one = torch.as_tensor(rows[0].get("labels", 0)).ndim == 0
    return "single_label_classification" if is_one else "multi_label_classification"


def pad_id_of(base: nn.Module) -> int:
    """What fills input_ids; the mask hides it, so that 0 serves where the model names none."""
    config: Any = base.config
    return int(getattr(config, "pad_token_id", None) or 0)
