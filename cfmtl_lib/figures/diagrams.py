"""Diagrams of the causal graph, the strata, the map from strata to cells, and the network of CF-MTL."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from cfmtl_lib.figures.style import STRATUM_COLOURS, closed_figure
from cfmtl_lib.strata import CELL_MEMBERSHIP, CELLS, POTENTIAL_OUTCOMES, STRATA, strata_from_moments

INK, FAINT = "#222222", "#888888"


def causal_graph() -> Figure:
    """Draw the causal graph; the two arrows that assumptions rule out are dashed."""
    figure, ax = plt.subplots(figsize=(7, 3.3), layout="constrained")
    at = {"X": (3.0, 2.5), "T": (0.6, 0.6), "C": (3.0, 0.6), "Y": (5.4, 0.6), "U": (5.4, 2.5)}
    meaning = {
        "X": "features",
        "T": "incentive\ngiven",
        "C": "collected",
        "Y": "converted",
        "U": "not in the log",
    }
    for name, (x, y) in at.items():
        hidden = name == "U"
        ax.scatter(
            x, y, s=900, facecolor="white", edgecolor=FAINT if hidden else INK, zorder=3, linewidth=1.3,
            linestyle="--" if hidden else "-",
        )  # fmt: skip
        ax.text(x, y, f"${name}$", ha="center", va="center", zorder=4, fontsize=13)
        above = y > 1
        ax.text(
            x, y + (0.42 if above else -0.42), meaning[name], ha="center", va="bottom" if above else "top"
        )
    for start, end in (("X", "T"), ("X", "C"), ("X", "Y"), ("T", "C"), ("C", "Y"), ("U", "Y")):
        _arrow(ax, at[start], at[end])
    for start, end, bend, label, where in (
        ("T", "Y", 0.45, "ruled out by exclusion", (3.0, -1.15)),
        ("U", "T", 0.55, "ruled out by unconfoundedness", (1.2, 3.25)),
    ):
        _arrow(ax, at[start], at[end], bend=bend, ruled_out=True)
        ax.text(*where, label, ha="center", va="center", color="#A03000", fontsize=9)
    ax.set(xlim=(-0.9, 6.6), ylim=(-1.35, 3.6))
    ax.axis("off")
    return closed_figure(figure)


def strata_table() -> Figure:
    """Draw the strata as a table of C(1) against Y(0) and Y(1), with the excluded types."""
    columns = {
        (0, 0): "never",
        (0, 1): "only with\nthe incentive",
        (1, 1): "either way",
        (1, 0): "only without\nit",
    }
    rows = {0: "not collected", 1: "collected"}
    names = {(c1, (y0, y1)): name for (_, c1, y0, y1), name in zip(POTENTIAL_OUTCOMES, STRATA, strict=True)}
    excluded = {(0, (0, 1)): "exclusion", (0, (1, 0)): "exclusion", (1, (1, 0)): "monotonicity"}
    figure, ax = plt.subplots(figsize=(8, 3.0), layout="constrained")
    for i, outcomes in enumerate(columns):
        ax.text(i + 0.5, 2.12, columns[outcomes], ha="center", va="bottom")
        for j, c1 in enumerate(rows):
            y = 1 - j
            name = names.get((c1, outcomes))
            colour = STRATUM_COLOURS[name] if name else "white"
            ax.add_patch(
                Rectangle(
                    (i, y), 1, 1, facecolor=colour, edgecolor=INK, hatch=None if name else "///", alpha=0.85
                )
            )
            if name:
                symbol = "".join(map(str, POTENTIAL_OUTCOMES[STRATA.index(name)]))
                ax.text(i + 0.5, y + 0.58, name, ha="center", va="center", weight="bold", color="black")
                ax.text(i + 0.5, y + 0.3, symbol, ha="center", va="center", color="black")
            else:
                ax.text(
                    i + 0.5, y + 0.5, f"excluded by\n{excluded[c1, outcomes]}", ha="center", va="center",
                    fontsize=8.5, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
                )  # fmt: skip
    for j, text in enumerate(rows.values()):
        ax.text(-0.08, 1.5 - j, text, ha="right", va="center")
    ax.text(2, 2.62, "converts", ha="center", va="bottom", weight="bold")
    ax.text(-0.08, 2.12, "if offered", ha="right", va="bottom", weight="bold")
    ax.set(xlim=(-0.95, 4.05), ylim=(-0.05, 2.95))
    ax.axis("off")
    return closed_figure(figure)


def identification_map() -> Figure:
    """Draw the map from strata to cells, and its solution: strata as sums of four means."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.7), layout="constrained", gridspec_kw={"width_ratios": [5, 5]}
    )
    cells = [f"$C={c}, Y={y}$ | $T={t}$" for t, c, y in CELLS]
    _matrix(left, CELL_MEMBERSHIP.astype(float), cells, STRATA, "cell = sum of strata")
    left.axhline(3.5, color=INK, linewidth=1.5)  # the treated arm above, the untreated below
    # The map is affine: its value at no means, and what one unit of each mean adds.
    base = strata_from_moments([0.0], [0.0], [0.0], [0.0])[0]
    unit = [strata_from_moments(*([float(k == j)] for k in range(4)))[0] - base for j in range(4)]
    means = ["1", r"$\mu_1$", r"$\mu_0$", r"$\kappa$", r"$\tau$"]
    _matrix(right, np.column_stack([base, *unit]), STRATA, means, "stratum = sum of means")
    return closed_figure(figure)


def cf_mtl_network() -> Figure:
    """Draw the network of CF-MTL: pair, logits, strata, cells; coloured lines join a stratum to its cells."""
    figure, ax = plt.subplots(figsize=(9, 5.2), layout="constrained")
    _box(ax, (0.6, 4.5), "user u, item i\n(strata embeddings)", "#EEEEEE", 2.1)
    _box(ax, (0.6, 0.9), "user u, item i\n(propensity emb.)", "#EEEEEE", 2.1)
    _box(ax, (3.2, 4.5), "5 additive logits\nsoftmax", "#DDDDDD", 1.7)
    _box(ax, (3.2, 0.9), "1 additive logit\nsigmoid, floor 0.1", "#DDDDDD", 1.7)
    for start, end in (((1.7, 4.5), (2.3, 4.5)), ((1.7, 0.9), (2.3, 0.9)), ((4.1, 0.9), (5.05, 0.9))):
        _arrow(ax, start, end, shrink=0)
    heights = dict(zip(STRATA, np.linspace(5.6, 2.4, len(STRATA)), strict=True))
    for name, y in heights.items():
        _box(ax, (5.9, y), name, STRATUM_COLOURS[name], 1.6, 0.5)
        _arrow(ax, (4.1, 4.5), (5.05, y), shrink=0)
    _box(ax, (5.9, 0.9), "$g(x)$", "white", 1.6, 0.5)
    for y, (t, c, z), members in zip(np.linspace(5.6, 0.5, len(CELLS)), CELLS, CELL_MEMBERSHIP, strict=True):
        _box(ax, (9.3, y), f"cell T={t}, C={c}, Y={z}\n({'g' if t else '1 - g'}) × sum", "white", 2.2, 0.6)
        for s in np.flatnonzero(members):
            ax.plot([6.72, 8.15], [heights[STRATA[s]], y], color=STRATUM_COLOURS[STRATA[s]], linewidth=2)
        ax.plot([6.72, 8.15], [0.9, y], color="#999999", linewidth=0.6, linestyle=":")
    ax.set(xlim=(-0.6, 10.6), ylim=(0, 6.1))
    ax.axis("off")
    return closed_figure(figure)


def _matrix(ax: Axes, values: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str) -> None:
    ax.imshow(values, cmap="RdBu", vmin=-2.2, vmax=2.2, aspect="auto")
    for (i, j), v in np.ndenumerate(values):
        sign = "·" if v == 0 else f"{v:+.0f}".replace("-", "−")
        ax.text(j, i, sign, ha="center", va="center", color=FAINT if v == 0 else INK)
    ax.set_xticks(range(len(columns)), columns)
    if columns is STRATA:
        plt.setp(ax.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.set_title(title)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _box(
    ax: Axes, centre: tuple[float, float], text: str, colour: str, width: float, height: float = 0.62
) -> None:
    x, y = centre
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.03", facecolor=colour, edgecolor=INK)
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=9, color="black")


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    bend: float = 0.0,
    ruled_out: bool = False,
    shrink: float = 15.0,
) -> None:
    style = {
        "arrowstyle": "-|>",
        "color": "#A03000" if ruled_out else INK,
        "linestyle": "--" if ruled_out else "-",
        "connectionstyle": f"arc3,rad={bend}",
        "shrinkA": shrink,
        "shrinkB": shrink,
    }
    ax.annotate("", xy=end, xytext=start, arrowprops=style)
