"""The colours of series, as readers who are colour blind see them, and on each page.

Simulation: Machado, Oliveira, Fernandes 2009, severity 1. Difference: CIEDE2000 (Sharma, Wu, Dalal
2005, whose first test pairs are checked). Contrast: WCAG 2.
"""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drmad_client.plots import palette

Vector = NDArray[np.floating[Any]]

SIGHTS = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
LEAST_DIFFERENCE = 10.0
LEAST_CONTRAST = 3.0
STATIC = Path(__file__).parents[3] / "service" / "drmad_service" / "dashboard" / "static"


def linear(colour: str) -> Vector:
    shares = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear(colour) @ np.array([0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def lab(light: Vector) -> Vector:
    t = TO_XYZ @ np.clip(light, 0.0, 1.0) / (TO_XYZ @ np.ones(3))
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def difference(one: Vector, other: Vector) -> float:
    (l1, a1, b1), (l2, a2, b2) = one, other
    chroma = (math.hypot(a1, b1) + math.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * math.sqrt(chroma**7 / (chroma**7 + 25**7))
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = math.hypot(a1, b1), math.hypot(a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180
    hue = h1 + turn / 2
    dh = 2 * math.sqrt(c1 * c2) * math.sin(math.radians(turn) / 2)
    level, mean = (l1 + l2) / 2, (c1 + c2) / 2
    t = (
        1
        - 0.17 * math.cos(math.radians(hue - 30))
        + 0.24 * math.cos(math.radians(2 * hue))
        + 0.32 * math.cos(math.radians(3 * hue + 6))
        - 0.20 * math.cos(math.radians(4 * hue - 63))
    )
    sl = 1 + 0.015 * (level - 50) ** 2 / math.sqrt(20 + (level - 50) ** 2)
    sc, sh = 1 + 0.045 * mean, 1 + 0.015 * mean * t
    turned = math.radians(60 * math.exp(-(((hue % 360 - 275) / 25) ** 2)))
    rt = -2 * math.sqrt(mean**7 / (mean**7 + 25**7)) * math.sin(turned)
    dl, dc, dh = (l2 - l1) / sl, (c2 - c1) / sc, dh / sh
    return math.sqrt(dl**2 + dc**2 + dh**2 + rt * dc * dh)


def test_the_difference_is_that_of_the_published_pairs() -> None:
    for one, other, expected in (
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ):
        assert difference(np.array(one), np.array(other)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("colours", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_any_two_colours_are_told_apart(sight: str, colours: tuple[str, ...]) -> None:
    seen = {colour: lab(SIGHTS[sight] @ linear(colour)) for colour in colours}
    for one, other in itertools.combinations(colours, 2):
        assert difference(seen[one], seen[other]) >= LEAST_DIFFERENCE, (one, other)


def test_the_pages_have_these_colours_and_each_stands_out_from_the_page() -> None:
    styles = (STATIC / "app.css").read_text(encoding="utf-8")
    dark = styles.index(':root[data-theme="dark"]')
    for colours, part in ((palette.LIGHT, styles[:dark]), (palette.DARK, styles[dark:])):
        assert tuple(re.findall(r"--c\d: (#\w{6});", part)) == colours
        for name in ("surface", "paper"):
            page = re.search(rf"--{name}: (#\w{{6}});", part)
            assert page is not None
            for colour in colours:
                assert contrast(colour, page[1]) >= LEAST_CONTRAST, (colour, name)
    script = (STATIC / "chart_colours.js").read_text(encoding="utf-8")
    listed = re.search(r"const COLOURS = \[(.*?)\]", script)
    assert listed is not None
    assert tuple(re.findall(r"#\w{6}", listed[1])) == palette.LIGHT
