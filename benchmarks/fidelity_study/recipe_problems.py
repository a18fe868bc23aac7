"""Small problems of the kinds that people train: texts, images, sequences and tables.

The data are drawn under fixed seeds. Every training set has five sources: the targets of a share of
their rows are drawn anew, and the share grows from source to source.
"""

from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from drmad_workers import Problem
from drmad_workers.catalog.tabular import Tabular

VOCABULARY, LENGTH, CLASSES = 32, 16, 4
TRAIN, VALID = 512, 256
WRONG = (0.0, 0.1, 0.2, 0.3, 0.4)
"""The share of targets of each source that are drawn anew."""


class Transformer(nn.Module):
    """Two layers of width 64 with four heads, normalised before each part; no dropout.

    `outputs` are logits of the next token at every position, (rows, length, vocabulary), if
    `causal`, else of the class of each row, (rows, classes).
    """

    def __init__(self, causal: bool, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.causal = causal
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(LENGTH, width)
        self.layers = nn.ModuleList(Block(width, heads, causal) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY if causal else CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden)
        hidden = self.norm(hidden)
        outputs: Tensor = self.head(hidden if self.causal else hidden.mean(1))
        return outputs


class Block(nn.Module):
    """Attention, and a fully connected part of twice the width."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        rows, length, width = hidden.shape
        parts = self.attend(self.norm_1(hidden)).view(rows, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        hidden = hidden + self.project(attended.transpose(1, 2).reshape(rows, length, width))
        outputs: Tensor = hidden + self.narrow(functional.gelu(self.wide(self.norm_2(hidden))))
        return outputs


class Residual(nn.Module):
    """Two convolutions with batch normalization beside a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.conv_2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn_1, self.bn_2 = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.skip = nn.Conv2d(before, after, 1, stride, bias=False) if stride > 1 else None

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.bn_1(self.conv_1(images)))
        hidden = self.bn_2(self.conv_2(hidden))
        return functional.relu(hidden + (images if self.skip is None else self.skip(images)))


class ResNet8(nn.Module):
    """A convolution, three residual blocks of two, and a linear layer: 8 layers of weights."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(
            Residual(width, width, 1),
            Residual(width, 2 * width, 2),
            Residual(2 * width, 4 * width, 2),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.blocks(functional.relu(self.bn(self.stem(images))))
        outputs: Tensor = self.head(hidden.mean((2, 3)))
        return outputs


class Recurrent(nn.Module):
    """An embedding, an LSTM, and a linear layer behind its last state."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.cells = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.cells(self.tokens(tokens))
        outputs: Tensor = self.head(hidden[:, -1])
        return outputs


class Augmented(Dataset[Any]):
    """Images that are moved by up to a pixel, and get noise, anew at every read."""

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        self.padded, self.targets = functional.pad(images, (1, 1, 1, 1)), targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        down, right = torch.randint(3, (2,)).tolist()
        image = self.padded[row, :, down : down + 8, right : right + 8]
        return image + 0.1 * torch.randn(image.shape), self.targets[row]


def token_loss(outputs: Tensor, tokens: Tensor) -> Tensor:
    """The mean loss of the next tokens of each row."""
    losses = functional.cross_entropy(outputs.transpose(1, 2), tokens, reduction="none")
    return losses.mean(1)


def sources(rows: int) -> list[int]:
    """The source of each training row."""
    return [row * len(WRONG) // rows for row in range(rows)]


def with_wrong(targets: Tensor, count: int, draw: torch.Generator) -> Tensor:
    """The targets, of which each source has its share drawn anew among `count` values."""
    shares = torch.tensor([WRONG[each] for each in sources(len(targets))])
    wrong = torch.rand(targets.shape, generator=draw) < shares.view(-1, *[1] * (targets.ndim - 1))
    return torch.where(wrong, torch.randint(count, targets.shape, generator=draw), targets)


def causal() -> Problem:
    """Next tokens of a Markov chain with two likely successors of each token."""
    draw = torch.Generator().manual_seed(0)
    successors = torch.randint(VOCABULARY, (VOCABULARY, 2), generator=draw)
    tokens = torch.randint(VOCABULARY, (TRAIN + VALID, LENGTH + 1), generator=draw)
    for place in range(1, LENGTH + 1):
        which = (torch.rand(len(tokens), generator=draw) < 0.2).long()
        tokens[:, place] = successors[tokens[:, place - 1], which]
    tokens[:TRAIN] = with_wrong(tokens[:TRAIN], VOCABULARY, draw)
    return stated(lambda: Transformer(causal=True), tokens[:, :-1], tokens[:, 1:], token_loss)


def classifier() -> Problem:
    tokens, targets = sentences()
    return stated(lambda: Transformer(causal=False), tokens, targets)


def recurrent() -> Problem:
    tokens, targets = sentences()
    return stated(Recurrent, tokens, targets)


def sentences() -> tuple[Tensor, Tensor]:
    """Sequences in which three tokens in ten tell the class: their number modulo CLASSES."""
    draw = torch.Generator().manual_seed(1)
    targets = torch.randint(CLASSES, (TRAIN + VALID,), generator=draw)
    tokens = torch.randint(VOCABULARY, (TRAIN + VALID, LENGTH), generator=draw)
    telling = torch.rand(tokens.shape, generator=draw) < 0.3
    own = CLASSES * torch.randint(VOCABULARY // CLASSES, tokens.shape, generator=draw)
    tokens = torch.where(telling, own + targets[:, None], tokens)
    targets[:TRAIN] = with_wrong(targets[:TRAIN], CLASSES, draw)
    return tokens, targets


def images() -> Problem:
    draw = torch.Generator().manual_seed(2)
    digits = load_digits()
    chosen = torch.randperm(len(digits.target), generator=draw)[: TRAIN + VALID]
    pixels = torch.tensor(digits.images, dtype=torch.float32)[chosen, None] / 8.0 - 1.0
    targets = torch.tensor(digits.target)[chosen]
    train = Augmented(pixels[:TRAIN], with_wrong(targets[:TRAIN], 10, draw))
    return Problem(
        seeded(ResNet8), train, (pixels[TRAIN:], targets[TRAIN:]),
        columns={"source": sources(TRAIN)}, initialize="reset",
    )  # fmt: skip


def table() -> Problem:
    """Three numbers and four categories of 12, whose effects on the class are additive."""
    draw = torch.Generator().manual_seed(3)
    numbers = torch.randn(TRAIN + VALID, 3, generator=draw)
    categories = torch.randint(12, (TRAIN + VALID, 4), generator=draw)
    scores = numbers @ torch.randn(3, CLASSES, generator=draw)
    for column in categories.T:
        scores += torch.randn(12, CLASSES, generator=draw)[column]
    targets = (scores + 0.5 * torch.randn(scores.shape, generator=draw)).argmax(1)
    targets[:TRAIN] = with_wrong(targets[:TRAIN], CLASSES, draw)
    inputs = torch.cat([numbers, categories.float()], 1)
    return stated(lambda: Tabular(3, [12] * 4, CLASSES, [64, 64]), inputs, targets)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


def stated(
    build: Callable[[], nn.Module],
    inputs: Tensor,
    targets: Tensor,
    loss: Callable[[Any, Any], Tensor] | None = None,
) -> Problem:
    """The problem of these rows, the first of which train."""
    return Problem(
        seeded(build),
        (inputs[:TRAIN], targets[:TRAIN]),
        (inputs[TRAIN:], targets[TRAIN:]),
        loss=loss or nn.CrossEntropyLoss(reduction="none"),
        columns={"source": sources(TRAIN)},
        initialize="reset",
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "causal": causal,
    "classifier": classifier,
    "resnet": images,
    "lstm": recurrent,
    "table": table,
}
