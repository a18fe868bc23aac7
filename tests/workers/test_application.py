"""The default application of a model to the content of a minibatch."""

from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from drmad_workers import Problem, ProblemError
from drmad_workers.application import outputs_of

X, Y = torch.ones(2, 3), torch.zeros(2)


class Called(nn.Module):
    """Returns what its forward was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


class OneInput(Called):
    def forward(self, inputs: Any) -> Any:
        return inputs


class Names(Called):
    def forward(self, ids: Tensor, mask: Tensor | None = None, *, labels: Any = None) -> Any:
        return {"ids": ids, "mask": mask, "labels": labels}


class Both(Called):
    def forward(self, ids: Tensor, mask: Tensor) -> Any:
        return ids, mask


class Anything(Called):
    def forward(self, **named: Any) -> Any:
        return named


def called(model: nn.Module, content: Any) -> Any:
    return outputs_of(Problem(model, X, X), model, content)


def test_a_pair_applies_the_model_to_its_inputs() -> None:
    assert called(OneInput(), (X, Y)) is X
    assert called(OneInput(), [{"ids": X}, Y]) == {"ids": X}
    assert called(Names(), (UserDict(ids=X, mask=Y), Y)) == {"ids": X, "mask": Y, "labels": None}
    assert called(Names(), ((X, Y), Y)) == {"ids": X, "mask": Y, "labels": None}


def test_a_mapping_gives_the_entries_that_forward_takes() -> None:
    content = {"ids": X, "labels": Y, "text": ["a", "b"]}
    assert called(Names(), content) == {"ids": X, "mask": None, "labels": Y}
    assert called(Anything(), content) == content
    assert called(OneInput(), content) == content


def test_any_other_structure_is_the_input() -> None:
    assert called(OneInput(), (X, Y, X)) == (X, Y, X)
    assert called(OneInput(), X) is X


@pytest.mark.parametrize(
    "content", [({"mask": X, "words": X}, Y), ((X, X, X), Y), {"mask": X, "words": X}]
)
def test_inputs_that_forward_does_not_take_are_refused_by_name(content: Any) -> None:
    with pytest.raises(ProblemError, match=r"ids: .*mask: .*apply") as error:
        called(Both(), content)
    assert error.value.field == "problem.apply"
