"""What an attribution shows of an example: a picture that Pillow reads, or the user's text."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch

from drmad_client.files.png import png
from drmad_workers import Problem, Replay, TrainingConfig
from drmad_workers.attribution.attribution import attribute
from drmad_workers.attribution.attributor import Attributor
from drmad_workers.attribution.example_views import image_of, views_of
from drmad_workers.problem import Batch
from tests.workers.small import small_problem


@pytest.mark.parametrize("shape", [(5, 7), (6, 4, 3)])
def test_a_picture_has_the_pixels_of_the_example(shape: tuple[int, ...]) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(png(pixels))) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_images_are_told_from_other_inputs() -> None:
    def shown(inputs: torch.Tensor, flat: tuple[int, int] | None = None) -> object:
        image = image_of(Batch((inputs, torch.zeros(1)), torch.zeros(1)), flat)
        return None if image is None else image.shape

    assert shown(torch.rand(1, 8, 9)) == (8, 9)
    assert shown(torch.rand(1, 1, 8, 9)) == (8, 9)
    assert shown(torch.rand(1, 3, 8, 9)) == (8, 9, 3)
    assert shown(torch.rand(1, 3, 600, 500)) == (200, 167, 3)
    assert shown(torch.rand(1, 64)) is None
    assert shown(torch.rand(1, 64), (8, 8)) == (8, 8)
    assert shown(torch.rand(1, 2, 8, 8)) is None
    assert shown(torch.zeros(1, 16, dtype=torch.int64), (4, 4)) is None


def test_the_named_rows_of_a_report_have_their_picture_and_their_text() -> None:
    problem: Problem = small_problem(rows=40)
    problem.describe = lambda row: f"sentence {row}"
    training = TrainingConfig("sgd", steps=5, batch_size=10)
    attributor = Attributor(problem, training, Replay())
    found = attribute(attributor)
    replica = attributor.tuner.replica
    report = found.as_dict(top=3, views=lambda rows: views_of(replica, rows, (2, 2)))
    for example in report["queries"][0]["helpers"]:
        assert example["text"] == f"sentence {example['row']}"
        assert example["picture"] is None  # four numbers are no image
    (view,) = views_of(attributor.tuner.replica, [7]).values()
    assert view["text"] == "sentence 7"
    coloured = Problem(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)),
        (torch.rand(20, 3, 4, 4), torch.randint(3, (20,))),
        (torch.rand(5, 3, 4, 4), torch.randint(3, (5,))),
    )
    attributor = Attributor(coloured, training, Replay())
    picture = views_of(attributor.tuner.replica, [1])[1]["picture"]
    assert picture is not None
    head, _, content = picture.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(content).startswith(b"\x89PNG")
