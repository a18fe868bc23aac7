"""One-step online reweighting of the fine-tuning, in plain PyTorch.

[Ren2018] Learning to reweight examples for robust deep learning, 1803.09050.
"""

import statistics

import torch
from torch import Tensor, nn
from torch.func import functional_call

from online_study.sources import BATCH, DECAY, RATE, STEPS, Rows, model, texts
from online_study.study import FIRST_DRAW, RETRAININGS, Figures

Content = tuple[dict[str, Tensor], Tensor]


def collated(rows: Rows) -> Content:
    each = [torch.tensor(row["input_ids"]) for row in rows]
    ids = nn.utils.rnn.pad_sequence(each, batch_first=True)
    lengths = torch.tensor([len(text) for text in each])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    labels = torch.tensor([int(row["label"]) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}, labels


def losses(net: nn.Module, weights: dict[str, Tensor], content: Content) -> Tensor:
    logits = functional_call(net, weights, kwargs=content[0]).logits
    return nn.functional.cross_entropy(logits, content[1], reduction="none")


def reweighted(seed: int, factor: float) -> Figures:
    """The nets of one-step reweighting themselves, at a multiple of the learning rate.

    A step weighs a text by max(0, -∂f(w - α Σ ε_i ∇ℓ_i)/∂ε_i) at ε = 0 over its minibatch, with f
    the loss of as many validation texts, without dropout. A step costs five gradients: of f, of the
    minibatch before and after it has weights, and two for the derivative by ε.
    """
    rows, _ = texts(seed)
    each = [_trained(seed, FIRST_DRAW + draw, factor, rows) for draw in range(RETRAININGS)]
    return {"runs": 5.0, **{k: statistics.fmean(one[k] for one in each) for k in each[0]}}


def _trained(seed: int, draw: int, factor: float, rows: dict[str, Rows]) -> dict[str, float]:
    torch.manual_seed(10_000 * seed + draw)
    net = model()
    train, valid = rows["train"], rows["valid"]
    optimizer = torch.optim.AdamW(net.parameters(), factor * RATE, weight_decay=DECAY)
    warmup = 0.1 * STEPS
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / warmup, (STEPS - t) / (STEPS - warmup))
    )
    order: list[int] = []
    for _ in range(STEPS):
        order = order if len(order) >= BATCH else torch.randperm(len(train)).tolist()
        numbers, order = order[:BATCH], order[BATCH:]
        content = collated([train[n] for n in numbers])
        held = collated([valid[int(n)] for n in torch.randperm(len(valid))[:BATCH]])
        net.eval()
        weights = {k: v.detach().requires_grad_() for k, v in net.named_parameters()}
        eps = torch.zeros(BATCH, requires_grad=True)
        inner = (eps * losses(net, weights, content)).sum()
        steps = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
        moved = {k: v - RATE * g for (k, v), g in zip(weights.items(), steps, strict=True)}
        (by_eps,) = torch.autograd.grad(losses(net, moved, held).mean(), eps)
        found = (-by_eps).clamp_min(0.0)
        found = found / found.sum().clamp_min(1e-12)
        optimizer.zero_grad()
        net.train()
        weighted = found * losses(net, dict(net.named_parameters()), content)
        torch.autograd.backward(weighted.sum())
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    net.eval()
    figures = {}
    with torch.no_grad():
        for name, part in (("validation", valid), ("test", rows["test"])):
            inputs, labels = collated(part)
            logits = net(**inputs).logits
            figures[f"{name}_loss"] = float(nn.functional.cross_entropy(logits, labels))
            figures[f"{name}_error"] = float((logits.argmax(1) != labels).double().mean())
    return figures
