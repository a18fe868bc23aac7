"""Adapts a causal language model by LoRA to a new kind of text, and learns which sources teach it.

The texts are sequences of numbers that count by a step. The base model has learned to count by one,
and is to count by two. Of the three sources one does, one still counts by one, and one is noise.
Without a checkpoint the base is a small Llama that is trained here, and nothing is downloaded.
"""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from drmad_workers import Problem
from drmad_workers.integrations import transformers

NUMBERS, LENGTH = 16, 8
STEPS = {"new": 2, "old": 1, "noise": None}
"""By what the texts of each source count."""


def texts(count: int, source: str, seed: int) -> list[dict[str, Any]]:
    """Sequences of a source; the token of a number is the number plus one, because 0 pads."""
    draw = torch.Generator().manual_seed(seed)
    step = STEPS[source]
    if step is None:
        tokens = torch.randint(NUMBERS, (count, LENGTH), generator=draw)
    else:
        first = torch.randint(NUMBERS, (count, 1), generator=draw)
        tokens = (first + step * torch.arange(LENGTH)) % NUMBERS
    return [{"input_ids": row, "source": source} for row in (tokens + 1).tolist()]


def base_of(checkpoint: str | None) -> nn.Module:
    """The pretrained model, or a small one that learns to count by one."""
    if checkpoint is not None:
        return AutoModelForCausalLM.from_pretrained(checkpoint)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=NUMBERS + 1, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    tokens = torch.tensor([row["input_ids"] for row in texts(64, "old", 9)])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    return model.eval()


def build(checkpoint: str | None = None, rank: int = 4) -> Problem:
    """`checkpoint` names a pretrained causal model whose linear layers are q_proj and so on."""
    adapter = LoraConfig(
        r=rank,
        lora_alpha=4 * rank,
        target_modules=["q_proj", "v_proj", "up_proj", "down_proj"],
        task_type="CAUSAL_LM",
        lora_dropout=0.05,
    )
    train = [row for number, source in enumerate(STEPS) for row in texts(32, source, number)]
    return transformers.problem(
        get_peft_model(base_of(checkpoint), adapter),
        train,
        texts(32, "new", 3),
        texts(64, "new", 4),
        columns=["source"],
        per_token=True,
    )
