"""Tiny models of transformers with random weights, and rows of random tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import torch
import transformers as hf
from torch import nn

WORDS, CLASSES = 20, 3
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
}


def bert(head: Any = hf.BertForSequenceClassification, **fields: Any) -> Any:
    return head(hf.BertConfig(**SIZES, num_labels=fields.pop("num_labels", CLASSES), **fields))


def distilbert() -> Any:
    config = hf.DistilBertConfig(
        vocab_size=WORDS, dim=8, n_layers=1, n_heads=2, hidden_dim=8, max_position_embeddings=16,
        num_labels=CLASSES,
    )  # fmt: skip
    return hf.DistilBertForSequenceClassification(config)


def gpt2() -> Any:
    config = hf.GPT2Config(
        vocab_size=WORDS, n_embd=8, n_layer=1, n_head=2, n_inner=8, n_positions=16,
        bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return hf.GPT2LMHeadModel(config)


def llama() -> Any:
    config = hf.LlamaConfig(
        **SIZES, num_key_value_heads=1, tie_word_embeddings=True, attention_dropout=0.1
    )
    return hf.LlamaForCausalLM(config)


def lora() -> Any:
    settings = peft.LoraConfig(
        r=2,
        lora_alpha=64,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
        lora_dropout=0.1,
    )
    return peft.get_peft_model(llama(), settings)


def checkpointed() -> Any:
    model = bert()
    model.activation_checkpointing_enable()
    return model


def seeded(make: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return make()


def stirred(model: nn.Module) -> nn.Module:
    """The model with larger trained weights, so that each of them matters."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5 * torch.randn(parameter.shape, generator=draw))
    return model


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows of 3 to 6 tokens from two sources."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for row in range(count):
        tokens = torch.randint(1, WORDS, (3 + row % 4,), generator=draw).tolist()
        found.append({"input_ids": tokens, "text": "x", "source": "ab"[row % 2]})
    return found


def labelled(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with a class each."""
    draw = torch.Generator().manual_seed(seed + 1)
    classes = torch.randint(CLASSES, (count,), generator=draw).tolist()
    return [row | {"label": each} for row, each in zip(rows(count, seed), classes, strict=True)]
