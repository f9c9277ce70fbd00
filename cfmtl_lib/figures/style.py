"""Common style of figures, and their form on a page: vector graphics with a text alternative."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from cfmtl_lib.errors import InputError
from cfmtl_lib.strata import STRATA

STRATUM_COLOURS = dict(zip(STRATA, ("#999999", "#56B4E9", "#E69F00", "#009E73", "#D55E00"), strict=True))
"""Colours of the strata (Okabe-Ito), distinct for colour-blind readers; in this order also in grey."""

OURS, REPORTED = "#0072B2", "#CC79A7"

SERIES: tuple[dict[str, Any], ...] = tuple(
    {"color": colour, "linestyle": line, "linewidth": 1.8}
    for colour, line in zip(
        ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
        ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))),
        strict=True,
    )
)
"""Styles of lines in one figure, which differ in colour and in dashes."""


STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "cfmtl",  # equal figures make equal files
}
"""Settings of matplotlib (rcParams) for the book."""


def use_style() -> None:
    """Set the style of the book for all later figures (changes matplotlib's rcParams)."""
    for name, value in STYLE.items():
        plt.rcParams[name] = value  # type: ignore[index]


@contextmanager
def styled() -> Iterator[None]:
    """Set the style of the book for figures inside the block only."""
    with plt.rc_context():
        use_style()
        yield


@dataclass(frozen=True)
class Picture:
    """Figure of a notebook: vector graphics with a text alternative.

    Attributes
    ----------
    svg : bytes
        Vector graphics.
    alt : str
        Text alternative: description of the figure.
    """

    svg: bytes
    alt: str

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.svg).decode()
        return f'<img class="figure" alt="{html.escape(self.alt)}" src="data:image/svg+xml;base64,{data}">'

    def __repr__(self) -> str:
        return f"[Figure: {self.alt}]"


def picture(figure: Figure, alt: str) -> Picture:
    """Convert a figure to a picture for a page, and close it.

    Parameters
    ----------
    figure : Figure
    alt : str
        Text alternative for readers who cannot see the figure, of at least 20 characters.

    Returns
    -------
    Picture
        Picture that a notebook displays.

    Raises
    ------
    InputError
        If the text has fewer than 20 characters.

    Examples
    --------
    >>> figure, _ = plt.subplots()
    >>> picture(figure, "An empty pair of axes, from 0 to 1.")
    [Figure: An empty pair of axes, from 0 to 1.]
    """
    if len(alt.strip()) < 20:
        raise InputError("alt", expected="a text that says what the figure shows", found=repr(alt))
    drawn = io.BytesIO()
    with plt.rc_context({"svg.hashsalt": STYLE["svg.hashsalt"]}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    plt.close(figure)
    return Picture(drawn.getvalue(), " ".join(alt.split()))


def closed_figure(figure: Figure) -> Figure:
    """Close a figure and return it, so that a notebook shows it only once."""
    plt.close(figure)
    return figure
