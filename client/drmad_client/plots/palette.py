"""The colours of series, for light and for dark pages, and the dash of each series.

Any two colours of a theme stay apart under simulated colour blindness and have a contrast of at
least 3:1 with the page; the tests of this module hold both.
"""

from __future__ import annotations

from typing import Any

LIGHT = (
    "#2f74b8",
    "#c87820",
    "#892620",
    "#049c85",
    "#787ffb",
    "#165165",
    "#cc2a50",
    "#2c29d4",
)
DARK = (
    "#5aa2e6",
    "#ce2f29",
    "#eeab9f",
    "#9bb41d",
    "#735afd",
    "#3c6d9d",
    "#bf7282",
    "#71a65f",
)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "8px,2px", "2px,6px")


def stroke(series: int, **more: Any) -> dict[str, Any]:
    """The line of a series. The dashboard puts DARK in the place of LIGHT on a dark page."""
    line = {"color": LIGHT[series % len(LIGHT)], "dash": DASHES[series % len(DASHES)]}
    return {"line": line | more}


def faded(series: int, opacity: float) -> str:
    """The colour of a series for an area, such as a band."""
    colour = LIGHT[series % len(LIGHT)]
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity:g})"
