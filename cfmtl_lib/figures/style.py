"""How figures look and are handed to a page: one style, one colour a stratum, a text for each."""

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
"""From the Okabe-Ito palette, told apart with any vision. Stacks keep this order, for print in grey."""

OURS, REPORTED = "#0072B2", "#CC79A7"

SERIES: tuple[dict[str, Any], ...] = tuple(
    {"color": colour, "linestyle": line, "linewidth": 1.8}
    for colour, line in zip(
        ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
        ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1))),
        strict=True,
    )
)
"""Styles of lines in one figure: by colour and by dashes."""


STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "cfmtl",  # equal figures make equal files
}
"""matplotlib's rcParams of the book."""


def use_style() -> None:
    """Draw all figures from here on in the style of the book (changes matplotlib's rcParams)."""
    for name, value in STYLE.items():
        plt.rcParams[name] = value  # type: ignore[index]


@contextmanager
def styled() -> Iterator[None]:
    """Draw figures in the style of the book inside the block only."""
    with plt.rc_context():
        use_style()
        yield


@dataclass(frozen=True)
class Picture:
    """A figure as a notebook shows it: vector graphics with a text for those who cannot see it.

    Attributes
    ----------
    svg : bytes
    alt : str
        What the figure shows.
    """

    svg: bytes
    alt: str

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.svg).decode()
        return f'<img class="figure" alt="{html.escape(self.alt)}" src="data:image/svg+xml;base64,{data}">'

    def __repr__(self) -> str:
        return f"[Figure: {self.alt}]"


def picture(figure: Figure, alt: str) -> Picture:
    """Make of a figure what a page shows, and let go of it.

    Parameters
    ----------
    figure : Figure
    alt : str
        The text alternative: what a reader who cannot see the figure should know. At least 20 characters.

    Returns
    -------
    Picture
        To be displayed in a notebook.

    Raises
    ------
    InputError
        If the text is too short to say anything.

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
    """Let go of a figure, so that a notebook shows it where it is returned and not once more."""
    plt.close(figure)
    return figure
