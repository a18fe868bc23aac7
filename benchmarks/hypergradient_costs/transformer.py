"""A small transformer for text: causal, two layers 64 wide unless stated otherwise."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Layer(nn.Module):
    """Causal attention and a perceptron, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read, self.write = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        rows, length, width = inputs.shape
        parts = self.read(self.before_attention(inputs)).view(rows, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        inputs = inputs + self.write(mixed.transpose(1, 2).reshape(rows, length, width))
        out: Tensor = inputs + self.perceptron(self.before_perceptron(inputs))
        return out


class Transformer(nn.Module):
    """Logits of the next token, shape (rows, length, words), from tokens, shape (rows, length)."""

    def __init__(
        self, words: int = 64, width: int = 64, layers: int = 2, heads: int = 4, length: int = 32
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(words, width), nn.Embedding(length, width)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        inputs = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        logits: Tensor = self.head(self.norm(self.layers(inputs)))
        return logits


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """The mean cross-entropy of the next token in each row, shape (rows,)."""
    each = functional.cross_entropy(logits[:, :-1].mT, tokens[:, 1:], reduction="none")
    mean: Tensor = each.mean(1)
    return mean


def sentences(rows: int, words: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of a random Markov chain as (tokens, tokens), each of shape (rows, length).

    Every token has four likely successors, one in eight is drawn from all.
    """
    draw = torch.Generator().manual_seed(seed)
    successors = torch.randint(words, (words, 4), generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(words, (rows, length), generator=draw)
    for place in range(1, length):
        choice = torch.randint(4, (rows,), generator=draw)
        likely = successors[tokens[:, place - 1], choice]
        is_likely = torch.rand(rows, generator=draw) < 0.875
        tokens[:, place] = torch.where(is_likely, likely, tokens[:, place])
    return tokens, tokens
