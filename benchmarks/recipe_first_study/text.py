"""A small BERT on 600 invented texts of ten words, of which a fifth have the wrong label."""

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification

from drmad_workers import Problem, SampleWeight
from drmad_workers.integrations import transformers
from recipe_first_study.work import Recipe, train_plainly

POLAR, FILLERS, WORDS = 60, 80, 10
"""The words that speak for each class, the other words, and the words of a text."""
WRONG = 0.2


class Text:
    """200 clean texts validate, 1,000 test; drmad tunes one weight per text."""

    recipe = Recipe(0.003, 0.01, 200)
    space: Mapping[str, tuple[float, float]] = {
        "learning_rate": (3e-4, 1e-2),
        "weight_decay": (1e-3, 1.0),
        "steps": (40, 300),
    }
    kinds: Mapping[str, SampleWeight] = {"rows": SampleWeight(normalised=True)}
    batch_size = 20
    outer_rate = 0.3
    figures: Mapping[str, float] = {"test_error": 100.0, "validation_loss": 1.0}

    def problem(self, seed: int) -> Problem:
        torch.manual_seed(0)
        return transformers.problem(bert(), *data(seed), initialize=draw_weights)

    def start(self, seed: int, recipe: Recipe, tunes: str) -> Tensor | None:
        return None

    def row_weights(self, seed: int, recipe: Recipe, values: Mapping[str, Tensor]) -> Tensor:
        if not values:
            return torch.ones(len(data(seed)[0]))
        return values["sample_weight"].sigmoid()

    def trained(self, seed: int, recipe: Recipe, weights: Tensor, draw: int) -> dict[str, float]:
        parts = [columns(rows) for rows in data(seed)]
        torch.manual_seed(draw)
        model = bert()
        draw_weights(model)

        def losses(rows: Tensor) -> Tensor:
            tokens, labels = parts[0]
            return cross_entropy(model(tokens[rows]).logits, labels[rows], reduction="none")

        train_plainly(model, recipe, losses, weights, self.batch_size, draw)
        found = {}
        with torch.no_grad():
            for name, (tokens, labels) in zip(("validation", "test"), parts[1:], strict=True):
                logits = model(tokens).logits
                found[f"{name}_loss"] = float(cross_entropy(logits, labels))
                found[f"{name}_error"] = float((logits.argmax(1) != labels).float().mean())
        return found


@cache
def data(seed: int) -> tuple[list[dict[str, Any]], ...]:
    """The texts that train, validate and test."""
    return texts(600, 100 + seed, WRONG), texts(200, 200 + seed), texts(1000, 300 + seed)


def texts(count: int, seed: int, wrong: float = 0.0) -> list[dict[str, Any]]:
    """Texts as tokens: polar words speak for their class in 85 of 100 cases."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.randrange(2)
        tokens = [1]
        for _ in range(WORDS):
            if draw.random() < 0.45:
                side = label if draw.random() < 0.85 else 1 - label
                tokens.append(2 + side * POLAR + draw.randrange(POLAR))
            else:
                tokens.append(2 + 2 * POLAR + draw.randrange(FILLERS))
        given = 1 - label if draw.random() < wrong else label
        rows.append({"input_ids": tokens, "label": given})
    return rows


def columns(rows: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
    """Tokens, shape (rows, 11), and labels, shape (rows,)."""
    tokens = torch.tensor([row["input_ids"] for row in rows])
    return tokens, torch.tensor([row["label"] for row in rows])


def bert() -> nn.Module:
    model: nn.Module = BertForSequenceClassification(
        BertConfig(
            vocab_size=2 + 2 * POLAR + FILLERS,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=16,
            num_labels=2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    return model


def draw_weights(model: nn.Module) -> None:
    """New weights for every draw, as BERT draws them."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
