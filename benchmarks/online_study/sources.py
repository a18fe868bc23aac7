"""A pretrained transformer is fine-tuned on texts of five sources, of which two are corrupted.

The texts are invented reviews. The model is a BERT of one layer, 32 wide, that has read 2,000 other
texts without labels (masked words). Half of the labels of two sources are wrong, a fifth of all.
"""

import random
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from drmad_workers import MetaConfig, Problem, SampleWeight, TrainingConfig
from drmad_workers.integrations import transformers
from drmad_workers.training.schedules import LinearSchedule
from online_study.study import Figures, Study, Values, mean_of, transformed

WORDS = [f"{kind}{number}" for kind in ("bad", "good") for number in range(60)]
FILLERS = ["the", "a", "this", "my", "screen", "battery", "camera", "case", "is", "was", "seems"]
TOKENS = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[MASK]", *WORDS, *FILLERS])}
WRONG = {"shop": 0.0, "survey": 0.0, "forum": 0.0, "archive": 0.5, "scraped": 0.5}
SIZES = {"train": 300, "valid": 100, "test": 1000}
STEPS, BATCH, RATE, DECAY = 120, 20, 0.003, 0.01
READING = 2000
"""The steps of pretraining, of 32 texts each."""

Rows = list[dict[str, Any]]


def review(draw: random.Random) -> dict[str, Any]:
    label = draw.randrange(2)
    words = draw.sample(WORDS[60 * label :][:60], 2)
    words += draw.choices(FILLERS, k=draw.randint(3, 8))
    draw.shuffle(words)
    tokens = [TOKENS[word] for word in ["[CLS]", *words]]
    return {"input_ids": tokens, "label": label, "source": draw.choice(list(WRONG))}


@cache
def texts(seed: int) -> tuple[dict[str, Rows], Tensor]:
    """Training, validation and test texts, and whether each training label is wrong."""
    draw = random.Random(seed)
    rows = {part: [review(draw) for _ in range(size)] for part, size in SIZES.items()}
    wrong = [draw.random() < WRONG[row["source"]] for row in rows["train"]]
    for row, is_wrong in zip(rows["train"], wrong, strict=True):
        row["label"] = row["label"] ^ is_wrong
    return rows, torch.tensor(wrong)


def config() -> BertConfig:
    return BertConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        num_labels=2,
        initializer_range=0.1,
        attn_implementation="eager",
    )


@cache
def pretrained() -> dict[str, Tensor]:
    """The weights of the encoder after reading: one word of each text is masked."""
    torch.manual_seed(12345)
    draw = random.Random(12345)
    model = BertForMaskedLM(config()).train()
    optimizer = torch.optim.AdamW(model.parameters(), 0.003)
    corpus = [review(draw)["input_ids"] for _ in range(2000)]
    for _ in range(READING):
        chosen = [torch.tensor(draw.choice(corpus)) for _ in range(32)]
        ids = nn.utils.rnn.pad_sequence(chosen, batch_first=True)
        lengths = torch.tensor([len(each) for each in chosen])
        at = (torch.rand(len(ids)) * (lengths - 1)).long() + 1
        rows = torch.arange(len(ids))
        labels = torch.full_like(ids, -100)
        labels[rows, at] = ids[rows, at]
        ids[rows, at] = TOKENS["[MASK]"]
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        optimizer.zero_grad()
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
    return {k: v.detach().clone() for k, v in model.bert.state_dict().items()}


def model() -> BertForSequenceClassification:
    """The pretrained encoder below a new head."""
    made = BertForSequenceClassification(config())
    made.bert.load_state_dict(pretrained(), strict=False)
    return made


def draw_weights(trained: nn.Module) -> None:
    """Every training run has the pretrained encoder, and a head of its own."""
    trained.load_state_dict(model().state_dict())


def problem(seed: int) -> Problem:
    torch.manual_seed(seed)
    rows, _ = texts(seed)
    return transformers.problem(
        model(),
        rows["train"],
        rows["valid"],
        rows["test"],
        columns=["source"],
        initialize=draw_weights,
    )


def shown(seed: int, values: Values) -> Figures:
    """The weight of every source, and the share of wrong labels among as many lowest weights."""
    rows, wrong = texts(seed)
    names = sorted(WRONG)
    source = torch.tensor([names.index(row["source"]) for row in rows["train"]])
    weights = values["source_weight"].sigmoid()[source]
    found = mean_of(wrong[weights.argsort(stable=True)[: int(wrong.sum())]])
    return {"found": found, "sources": transformed(values, "source_weight", torch.sigmoid)}


WITHOUT = {
    "source_weight": torch.tensor([-40.0 if WRONG[source] else 0.0 for source in sorted(WRONG)])
}
"""λ with which the corrupted sources have no weight, and all others the same."""
TRAINING = TrainingConfig(
    "adamw",
    STEPS,
    BATCH,
    RATE,
    weight_decay=DECAY,
    schedule=LinearSchedule(warmup=0.1),
    clip_norm=1.0,
)
SOURCES = Study(
    problem,
    [SampleWeight("source_weight", per="source", normalised=True)],
    TRAINING,
    MetaConfig("adam", 1.0),
    space={"source_weight": (-4.0, 4.0)},
    shown=shown,
)
