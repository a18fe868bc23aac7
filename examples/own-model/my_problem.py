"""A model, a loss and hyperparameters of one's own: label smoothing learned per pair of classes.

A small convolutional net with batch normalisation learns handwritten digits. Its training loss
compares with soft labels, softmax(mixing)[label], where mixing is a 10 × 10 tensor that is tuned.
"""

from collections.abc import Mapping

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from drmad_workers import Batch, Hyperparameter, Problem
from drmad_workers.problem import error_rate


class ConvNet(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.Tanh(),
            nn.AvgPool2d(2),
        )
        self.classifier = nn.Linear(width * 4, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def soft_label_loss(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Cross entropy with the soft labels; penalties are added by the engine."""
    soft = tuned["mixing"].softmax(dim=1)[batch.targets]
    return -(soft * forward(batch.inputs).log_softmax(dim=1)).sum(dim=1).mean()


def build(width: int = 8, noise: float = 0.3) -> Problem:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    inputs = torch.from_numpy(images / 16.0).float().view(-1, 1, 8, 8)[order]
    targets = torch.from_numpy(labels)[order].long()
    # Some threes of the training data are called eights, and the mixing may find that out.
    train = targets[:1000].clone()
    threes = (train == 3).nonzero()[:, 0]
    train[threes[: round(noise * len(threes))]] = 8
    return Problem(
        model=ConvNet(width),
        train=(inputs[:1000], train),
        valid=(inputs[1000:1300], targets[1000:1300]),
        test=(inputs[1300:], targets[1300:]),
        inner_loss=soft_label_loss,
        loss=nn.CrossEntropyLoss(reduction="none"),
        hyperparameters={"mixing": Hyperparameter(4.0 * torch.eye(10))},
        metrics={"error": error_rate},
        initialize="reset",
    )
