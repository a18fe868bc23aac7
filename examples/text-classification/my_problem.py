"""Fine-tunes BERT on short reviews from five sources, a fifth of which have the wrong label.

Each source mislabels another share of its reviews. A weight for every review and one for every
source are tuned, so that the reviews with the lowest weights are the suspects. Without a checkpoint
the model is a small BERT with random weights, and nothing is downloaded.
"""

import random
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from drmad_workers import Problem
from drmad_workers.integrations import transformers

WORDS = (
    ["terrible", "dull", "slow", "broken", "poor", "awful", "noisy", "weak"],
    ["great", "bright", "quick", "sturdy", "rich", "lovely", "quiet", "strong"],
)
"""The words that a bad and a good review contain."""
FILLERS = ["the", "a", "this", "my", "screen", "battery", "camera", "case", "is", "was", "seems"]
WRONG = {"forum": 0.0, "shop": 0.1, "survey": 0.2, "archive": 0.3, "scraped": 0.4}
"""The share of wrong labels of each source."""


def reviews(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts with their true label and source."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        label = draw.randrange(2)
        words = draw.sample(WORDS[label], 2) + draw.choices(FILLERS, k=draw.randint(3, 8))
        draw.shuffle(words)
        source = list(WRONG)[number % len(WRONG)]
        rows.append({"text": " ".join(words), "label": label, "source": source})
    return rows


def mislabelled(rows: list[dict[str, Any]], seed: int = 0) -> list[int]:
    """The positions of the rows that get a wrong label, by the shares of their sources."""
    draw = random.Random(seed)
    return [at for at, row in enumerate(rows) if draw.random() < WRONG[row["source"]]]


def tokenized(rows: list[dict[str, Any]], checkpoint: str | None) -> list[dict[str, Any]]:
    """The rows with their tokens; without a checkpoint a word is a token."""
    texts = [row["text"] for row in rows]
    if checkpoint is not None:
        found = AutoTokenizer.from_pretrained(checkpoint)(texts, truncation=True)["input_ids"]
    else:
        words = ["[PAD]", "[CLS]", *WORDS[0], *WORDS[1], *FILLERS]
        number = {word: place for place, word in enumerate(words)}
        found = [[1, *(number[word] for word in text.split())] for text in texts]
    return [row | {"input_ids": tokens} for row, tokens in zip(rows, found, strict=True)]


def model_of(checkpoint: str | None) -> torch.nn.Module:
    if checkpoint is not None:
        return AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=2)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16, num_labels=2,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def build(checkpoint: str | None = None, train: int = 200) -> Problem:
    """`checkpoint` names a pretrained model, such as google/bert_uncased_L-2_H-128_A-2."""
    rows = tokenized(reviews(train, 0), checkpoint)
    for at in mislabelled(rows):
        rows[at]["label"] = 1 - rows[at]["label"]
    return transformers.problem(
        model_of(checkpoint),
        rows,
        tokenized(reviews(100, 1), checkpoint),
        tokenized(reviews(200, 2), checkpoint),
        columns=["source"],
    )
