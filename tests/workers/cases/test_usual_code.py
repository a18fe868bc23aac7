"""Code of published recipes: teachers, codebooks, queues, inner gradients, recurrent layers."""

from collections.abc import Callable, Mapping
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from drmad_workers import (
    Batch,
    CosineSchedule,
    CustomTensor,
    Forward,
    LearningRate,
    Problem,
    Replay,
    Stored,
    TrainingConfig,
)
from tests.workers.cases.small import (
    CLASSES,
    FEATURES,
    WIDTH,
    Loss,
    each_loss,
    perceptron,
    problem_of,
    recipe_of,
)
from tests.workers.judge.verdict import faults, require_none


class Siamese(nn.Module):
    """Calls one batch norm twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(FEATURES, WIDTH, bias=False), nn.BatchNorm1d(WIDTH)
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        one = torch.tanh(self.norm(self.first(inputs)))
        outputs: Tensor = self.last(one + torch.tanh(self.norm(self.first(-0.5 * inputs))))
        return outputs


class Averaged(nn.Module):
    """A teacher as torch.optim.swa_utils averages it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()
        average = get_ema_multi_avg_fn(0.8)  # type: ignore[no-untyped-call]
        self.teacher = AveragedModel(self.net, multi_avg_fn=average)
        self.teacher.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.teacher.update_parameters(self.net)
        outputs: Tensor = self.net(inputs)
        return outputs


class Interpolated(nn.Module):
    """A teacher whose parameters are moved all at once."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron()
        self.teacher = deepcopy(self.net).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                teacher: list[Tensor] = list(self.teacher.parameters())
                own: list[Tensor] = list(self.net.parameters())
                torch._foreach_lerp_(teacher, own, 0.3)
        outputs: Tensor = self.net(inputs)
        return outputs


def distilled(forward: Averaged, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    outputs: Tensor = forward(batch.inputs)
    with torch.no_grad():
        target = forward.teacher(batch.inputs)
    distance: Tensor = (outputs - target).square().mean(0)
    return each_loss(outputs, batch.targets).mean() + (tuned["h"] * distance).sum()


def smoothed(forward: Averaged, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Label smoothing; the average of the weights decides the held-out loss alone."""
    outputs, targets = forward(batch.inputs), batch.targets
    losses = functional.cross_entropy(outputs, targets, reduction="none", label_smoothing=0.1)
    return (losses * tuned["h"][targets]).mean()


def of_average(forward: Averaged, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    return each_loss(forward.teacher(batch.inputs), batch.targets).mean()


class Queue(nn.Module):
    """Keeps earlier representations in a ring, with its position in an integer buffer."""

    queue: Tensor
    position: Tensor
    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.register_buffer("queue", torch.zeros(20, WIDTH))
        self.register_buffer("position", torch.zeros(1, dtype=torch.long))

    def forward(self, inputs: Tensor) -> Tensor:
        self.hidden = torch.tanh(self.first(inputs))
        if self.training:
            with torch.no_grad():
                start, count = int(self.position), len(inputs)
                self.queue[start : start + count] = self.hidden.detach()
                self.position[0] = (start + count) % 20
        outputs: Tensor = self.last(self.hidden)
        return outputs


def contrasted(forward: Queue, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    fit = each_loss(forward(batch.inputs), batch.targets).mean()
    against = (forward.hidden @ forward.queue.t()).square().mean(1)[:CLASSES]
    return fit + (tuned["h"] * against).sum()


class Codebook(nn.Module):
    """Vector quantization: straight-through, with a codebook of moving averages."""

    codes: Tensor
    counts: Tensor
    sums: Tensor
    distance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 4), nn.Linear(4, CLASSES)
        codes = torch.randn(6, 4, generator=torch.Generator().manual_seed(5))
        self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.ones(6))
        self.register_buffer("sums", codes.clone())

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        chosen = torch.cdist(hidden, self.codes).argmin(1)
        quantized = self.codes[chosen]
        if self.training:
            with torch.no_grad():
                members = functional.one_hot(chosen, 6).to(hidden)
                self.counts.mul_(0.9).add_(members.sum(0), alpha=0.1)
                self.sums.mul_(0.9).add_(members.t() @ hidden, alpha=0.1)
                self.codes.data.copy_(self.sums / self.counts[:, None])
        self.distance = (hidden - self.codes[chosen].detach()).square().mean()
        outputs: Tensor = self.last(hidden + (quantized - hidden).detach())
        return outputs


def committed(forward: Codebook, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    losses = each_loss(forward(batch.inputs), batch.targets)
    return (losses * tuned["h"][batch.targets]).mean() + 0.3 * forward.distance


def adapted(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """One step of gradient descent inside the loss, on one half of the minibatch."""
    weights: dict[str, Tensor] = dict(forward.named_parameters())
    half = len(batch.inputs) // 2
    inputs, targets = batch.inputs, batch.targets
    outputs = torch.func.functional_call(forward, weights, (inputs[:half],))
    inner = each_loss(outputs, targets[:half]).mean()
    steps = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
    fast = {name: w - 0.3 * s for (name, w), s in zip(weights.items(), steps, strict=True)}
    outputs = torch.func.functional_call(forward, fast, (inputs[half:],))
    return (each_loss(outputs, targets[half:]) * tuned["h"][targets[half:]]).mean()


def smooth(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """A penalty on the gradient by the inputs."""
    inputs: Tensor = batch.inputs.detach().requires_grad_()
    outputs = forward(inputs)
    (slope,) = torch.autograd.grad(outputs.logsumexp(1).sum(), inputs, create_graph=True)
    penalty = (tuned["h"][:, None] * slope[:CLASSES].square()).mean()
    return each_loss(outputs, batch.targets).mean() + penalty


def adversarial(forward: nn.Module, tuned: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Virtual adversarial training: the direction is a gradient that the loss takes by itself."""
    outputs, inputs = forward(batch.inputs), batch.inputs
    target = outputs.softmax(1).detach()
    noise = torch.sin(7.0 * inputs).requires_grad_()
    moved = forward(inputs + 0.1 * noise).log_softmax(1)
    distance = functional.kl_div(moved, target, reduction="batchmean")
    (direction,) = torch.autograd.grad(distance, noise)
    direction = direction.detach() / direction.detach().norm(dim=1, keepdim=True)
    moved = forward(inputs + 0.5 * direction).log_softmax(1)
    distance = functional.kl_div(moved, target, reduction="batchmean")
    return each_loss(outputs, batch.targets).mean() + tuned["h"].mean() * distance


class Sequence(nn.Module):
    """The last of three states of a recurrent layer."""

    def __init__(self, layer: nn.LSTM | nn.GRU, width: int) -> None:
        super().__init__()
        self.layer, self.last = layer, nn.Linear(width, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.layer(inputs.view(-1, 3, 2))[0][:, -1])
        return outputs


class Encoder(nn.Module):
    """Two transformer layers with dropout and a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            8, 2, 12, dropout=0.1, batch_first=True, norm_first=True, activation="gelu"
        )
        self.embed, self.last = nn.Linear(2, 8), nn.Linear(8, CLASSES)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, inputs: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(3, dtype=inputs.dtype)
        hidden = self.layers(self.embed(inputs.view(-1, 3, 2)), mask=mask)
        outputs: Tensor = self.last(hidden.mean(1))
        return outputs


class Cooled(nn.Module):
    """A temperature that Python lowers in every step of the training."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.temperature = perceptron(), 1.0

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.temperature = max(0.3, 0.9 * self.temperature)
        outputs: Tensor = self.net(inputs) / self.temperature
        return outputs


def stated(model: Callable[[], nn.Module], loss: Loss | None = None) -> Callable[[], Problem]:
    return lambda: problem_of(model()) if loss is None else problem_of(model(), loss)


CODE: dict[str, Callable[[], Problem]] = {
    "one batch norm twice": stated(Siamese),
    "averaged model": stated(Averaged, distilled),
    "interpolated teacher": stated(Interpolated, distilled),
    "queue": stated(Queue, contrasted),
    "codebook": stated(Codebook, committed),
    "spectral norm by a hook": stated(
        lambda: nn.Sequential(
            nn.utils.spectral_norm(nn.Linear(FEATURES, WIDTH)), nn.Tanh(), nn.Linear(WIDTH, CLASSES)
        )
    ),
    "orthogonal weights": stated(
        lambda: nn.Sequential(
            nn.utils.parametrizations.orthogonal(nn.Linear(FEATURES, FEATURES)),
            nn.Tanh(),
            nn.Linear(FEATURES, CLASSES),
        )
    ),
    "gradient step inside": stated(perceptron, adapted),
    "penalty on a gradient": stated(perceptron, smooth),
    "adversarial direction": stated(perceptron, adversarial),
    "lstm": stated(
        lambda: Sequence(
            nn.LSTM(2, 5, num_layers=2, dropout=0.2, batch_first=True, bidirectional=True), 10
        )
    ),
    "gru": stated(lambda: Sequence(nn.GRU(2, 5, batch_first=True), 5)),
    "transformer": stated(Encoder),
    "temperature": stated(Cooled),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", CODE)
def test_it_is_exact_as_it_is(name: str) -> None:
    require_none(faults(recipe_of(CODE[name]), (Replay(), Forward())))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_averaged_weights_and_smoothed_labels_are_exact_in_the_usual_recipe(
    accumulate: int,
) -> None:
    """torch.optim.swa_utils averages the weights in every forward pass in training."""
    training = TrainingConfig(
        "adamw",
        steps=8,
        batch_size=10,
        learning_rate=0.05,
        eps=1e-4,
        weight_decay=0.1,
        schedule=CosineSchedule(warmup=2),
        clip_norm=0.5,
        accumulate=accumulate,
    )

    def build() -> Problem:
        return problem_of(Averaged(), smoothed, outer_loss=of_average)

    recipe = recipe_of(build, (CustomTensor("h"), LearningRate(per="model")), training)
    require_none(faults(recipe, (Stored(), Replay(), Forward()), step=1e-6))
