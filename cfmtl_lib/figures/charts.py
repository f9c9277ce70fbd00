"""Charts of results: calibration, training, rewards, treated pairs, curves, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from cfmtl_lib.figures.style import OURS, REPORTED, SERIES, STRATUM_COLOURS, closed_figure
from cfmtl_lib.strata import STRATA


def plot_calibration(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot observed shares against predicted probabilities with 95 % bars, a panel for each stratum."""
    figure, axes = plt.subplots(
        1, len(curves), figsize=(2.3 * len(curves), 2.7), squeeze=False, layout="constrained"
    )
    for ax, (name, curve) in zip(axes[0], curves.items(), strict=True):
        top = 1.05 * max(curve["predicted"].max(), curve["observed"].max())
        ax.plot([0, top], [0, top], color="#BBBBBB", linewidth=1)
        ax.errorbar(
            curve["predicted"],
            curve["observed"],
            yerr=1.96 * curve["standard_error"],
            fmt="o",
            markersize=4,
            color=STRATUM_COLOURS.get(name, OURS),
        )
        ax.set(title=name, xlabel="predicted", xlim=(0, top), ylim=(0, top))
        ax.set_aspect("equal")
    axes[0][0].set_ylabel("true share")
    return closed_figure(figure)


def plot_cell_calibration(table: pd.DataFrame) -> Figure:
    """Plot observed against predicted frequency within the arm with 95 % bars, a panel for each cell.

    Parameters
    ----------
    table : DataFrame
        Result of :func:`~cfmtl_lib.deployment.model_selection.cell_calibration`.
    """
    cells = list(table.groupby(["treated", "collected", "converted"], sort=False))
    figure, axes = plt.subplots(2, 3, figsize=(7.5, 5.2), layout="constrained")
    for ax, ((treated, collected, converted), rows) in zip(axes.flat, cells, strict=True):
        top = 1.05 * float(max(rows["predicted"].max(), rows["observed"].max()))
        ax.plot([0, top], [0, top], color="#BBBBBB", linewidth=1)
        bars = 1.96 * rows["standard_error"]
        ax.errorbar(rows["predicted"], rows["observed"], yerr=bars, fmt="o", markersize=4, color=OURS)
        ax.set_title(f"t={treated}, c={collected}, y={converted}", fontsize="medium")
        ax.set(xlim=(0, top), ylim=(0, top))
    figure.supxlabel("predicted, given the arm")
    figure.supylabel("observed")
    return closed_figure(figure)


def plot_propensity(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot mean true against mean fitted propensity, in bins of the fitted one, a panel for each study."""
    figure, axes = plt.subplots(
        1, len(curves), figsize=(2.4 * len(curves), 2.9), squeeze=False, layout="constrained"
    )
    for ax, (name, curve) in zip(axes[0], curves.items(), strict=True):
        ax.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=1)
        ax.plot(curve["predicted"], curve["true"], "o", markersize=4, color=OURS)
        ax.set_title(name, fontsize="medium")
        ax.set(xlabel="fitted propensity", xlim=(0, 1), ylim=(0, 1))
        ax.set_aspect("equal")
    axes[0][0].set_ylabel("true propensity")
    return closed_figure(figure)


def plot_training(losses: Mapping[str, Sequence[float]]) -> Figure:
    """Plot training loss by epoch as a share of that of the first epoch, a panel for each fit."""
    figure, axes = plt.subplots(
        1, len(losses), figsize=(2.6 * len(losses), 2.5), squeeze=False, layout="constrained"
    )
    for ax, (name, loss) in zip(axes[0], losses.items(), strict=True):
        ax.plot(np.arange(1, len(loss) + 1), np.asarray(loss) / loss[0], color=OURS)
        ax.set_title(name, fontsize="medium")
        ax.set_xlabel("epoch")
    axes[0][0].set_ylabel("training loss / first epoch")
    return closed_figure(figure)


def plot_rewards(summary: pd.DataFrame, reference: str) -> Figure:
    """Plot the reward of each method as bars with a reference, a panel for each scenario.

    Parameters
    ----------
    summary : DataFrame
        Rewards with index (scenario, method); columns ``mean``, ``sd`` and, where it exists, ``reference``.
    reference : str
        Name of the reference in the legend.
    """
    scenarios = list(dict.fromkeys(summary.index.get_level_values("scenario")))
    figure, axes = plt.subplots(
        1, len(scenarios), figsize=(9, 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, scenario in zip(axes[0], scenarios, strict=True):
        part = summary.loc[scenario]
        y = np.arange(len(part))[::-1]
        ax.barh(
            y,
            part["mean"],
            xerr=part["sd"].fillna(0),
            height=0.6,
            color=OURS,
            ecolor="black",
            label="ours: mean and sd over seeds",
        )
        ax.scatter(
            part["reference"], y, marker="D", color=REPORTED, edgecolor="black", zorder=3, label=reference
        )
        ax.set_yticks(y, part.index)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(title=scenario, xlabel="reward (conversions)")
        ax.ticklabel_format(axis="x", style="plain")
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.tick_params(axis="x", labelrotation=30)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return closed_figure(figure)


KIND_COLOURS = dict(
    zip(
        ("paper", "cost on take-up", "effects", "entire space", "latent strata", "reference", "other"),
        ("#0072B2", "#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#999999", "#000000"),
        strict=True,
    )
)
"""Colours of the kinds of methods."""


def plot_learners(summary: pd.DataFrame) -> Figure:
    """Plot mean rewards of learners with two standard errors, a panel for each labelling and scenario.

    Parameters
    ----------
    summary : DataFrame
        One row for each method, labelling and scenario. Columns ``labelling, scenario, method, kind, mean,
        se``; ``kind`` is a key of :data:`KIND_COLOURS`. Methods are in the order of their first row, from the
        top.
    """
    labellings, scenarios, methods = (
        list(dict.fromkeys(summary[name])) for name in ("labelling", "scenario", "method")
    )
    figure, axes = plt.subplots(
        len(labellings),
        len(scenarios),
        figsize=(9, 0.8 + (0.21 * len(methods) + 0.7) * len(labellings)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    places = {method: -k for k, method in enumerate(methods)}
    for line, labelling in zip(axes, labellings, strict=True):
        for ax, scenario in zip(line, scenarios, strict=True):
            here = summary[(summary["labelling"] == labelling) & (summary["scenario"] == scenario)]
            for kind, part in here.groupby("kind", sort=False):
                ax.errorbar(
                    part["mean"],
                    part["method"].map(places),
                    xerr=2 * part["se"].fillna(0),
                    fmt="o",
                    markersize=4.5,
                    capsize=2,
                    color=KIND_COLOURS[str(kind)],
                    label=str(kind),
                )
            ax.axvline(0, color="black", linewidth=0.8)
            ax.set_yticks(list(places.values()), list(places))
            ax.grid(axis="y", color="#EEEEEE")
            ax.set(title=f"{scenario}, labelling {labelling}")
            ax.xaxis.set_major_formatter("{x:,.0f}")
            ax.tick_params(axis="x", labelrotation=30)
    for ax in axes[-1]:
        ax.set_xlabel("reward (conversions)")
    named = {
        label: handle
        for ax in axes.flat
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4)
    return closed_figure(figure)


def plot_treated(treated: pd.DataFrame) -> Figure:
    """Plot stacked bars of treated pairs by true stratum, a panel for each scenario.

    Parameters
    ----------
    treated : DataFrame
        Numbers of treated pairs with index (scenario, method) and a column for each stratum.
    """
    scenarios = list(dict.fromkeys(treated.index.get_level_values("scenario")))
    figure, axes = plt.subplots(
        1, len(scenarios), figsize=(9, 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, scenario in zip(axes[0], scenarios, strict=True):
        _stack(ax, treated.loc[scenario])
        ax.set(title=scenario, xlabel="treated pairs")
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.tick_params(axis="x", labelrotation=30)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return closed_figure(figure)


def plot_profiles(at: ArrayLike, losses: Mapping[str, ArrayLike]) -> Figure:
    """Plot excess loss along the line between "all are always buyers" and "all are coupon buyers"."""
    figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (name, loss), style in zip(losses.items(), SERIES, strict=False):
        ax.plot(at, loss, label=name, **style)
    ax.axvline(0, color="#BBBBBB", linewidth=0.8, zorder=0)
    ax.set(
        xlabel="share moved: coupon buyers to always buyers (< 0), always to coupon buyers (> 0)",
        ylabel="expected loss a row,\nless its minimum",
    )
    ax.legend(frameon=False)
    return closed_figure(figure)


def plot_spread(values: Mapping[str, ArrayLike], reference: Mapping[str, float]) -> Figure:
    """Plot a row of dots for each sample, with its reference value."""
    figure, ax = plt.subplots(figsize=(8, 0.5 * len(values) + 1.3), layout="constrained")
    rows = np.arange(len(values))[::-1]
    for y, (name, sample) in zip(rows, values.items(), strict=True):
        points = np.asarray(sample, dtype=float)
        ax.scatter(points, np.full(len(points), y), color=OURS, alpha=0.6, label="ours" if y == 0 else None)
        ax.scatter(
            reference[name],
            y,
            marker="D",
            color=REPORTED,
            edgecolor="black",
            zorder=3,
            label="reported" if y == 0 else None,
        )
    ax.set_yticks(rows, values)
    ax.set(xlabel="reward (conversions)", ylim=(-0.6, len(values) - 0.4))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    figure.legend(loc="outside lower center", ncols=2)
    return closed_figure(figure)


def plot_bands(curves: Mapping[str, pd.DataFrame], xlabels: Sequence[str], scale: float = 1.0) -> Figure:
    """Plot estimated curves over budgets, a panel for each, with pointwise intervals inside uniform bands.

    Parameters
    ----------
    curves : mapping of str to DataFrame
        Results of ``BudgetCurve.frame()`` by title.
    xlabels : sequence of str
        Labels of the budget axes, one for each panel.
    scale : float
        Factor of the values, e.g. the number of pairs for totals.
    """
    figure, axes = plt.subplots(
        1, len(curves), figsize=(3.9 * len(curves), 3.5), squeeze=False, layout="constrained"
    )
    for ax, (title, curve), xlabel in zip(axes[0], curves.items(), xlabels, strict=True):
        for low, high, colour, label in (
            ("lower_uniform", "upper_uniform", "#DDDDDD", "uniform band"),
            ("lower", "upper", "#A6C8E0", "pointwise interval"),
        ):
            ax.fill_between(
                curve["budget"], scale * curve[low], scale * curve[high], color=colour, label=label
            )
        ax.plot(curve["budget"], scale * curve["value"], color=OURS)
        ax.axhline(0, color="#888888", linewidth=0.8)
        ax.set_title(title, fontsize="medium")
        ax.set_xlabel(xlabel)
    axes[0][0].legend(frameon=False)
    axes[0][0].set_ylabel("value")
    return closed_figure(figure)


def plot_curves(curves: pd.DataFrame, highlight: Sequence[str], xlabel: str) -> Figure:
    """Plot rewards of methods along a setting, with bands of one standard deviation, a panel a scenario.

    Parameters
    ----------
    curves : DataFrame
        Rewards with columns scenario, method, value, mean, sd.
    highlight : sequence of str
        Methods in colour; the others are thin grey lines.
    xlabel : str
        Label of the setting.
    """
    scenarios = list(dict.fromkeys(curves["scenario"]))
    figure, axes = plt.subplots(
        1, len(scenarios), figsize=(9, 4), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, scenario in zip(axes[0], scenarios, strict=True):
        part = curves[curves["scenario"] == scenario]
        styles = dict(zip(highlight, SERIES, strict=False))
        for method, line in part.groupby("method", sort=False):
            style = styles.get(str(method), {"color": "#CCCCCC", "linewidth": 0.8, "zorder": 1})
            ax.plot(line["value"], line["mean"], label=method if method in styles else None, **style)
            if method in styles:
                sd = line["sd"].fillna(0)
                band = {"color": style["color"], "alpha": 0.2, "linewidth": 0}
                ax.fill_between(line["value"], line["mean"] - sd, line["mean"] + sd, **band)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(title=scenario, xlabel=xlabel)
        ax.yaxis.set_major_formatter("{x:,.0f}")
    axes[0][0].set_ylabel("reward (conversions)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return closed_figure(figure)


def _stack(ax: Axes, counts: pd.DataFrame) -> None:
    y = np.arange(len(counts))[::-1]
    left = np.zeros(len(counts))
    for name in STRATA:
        colour = STRATUM_COLOURS[name]
        ax.barh(y, counts[name], left=left, height=0.6, color=colour, edgecolor="white", label=name)
        left += counts[name].to_numpy()
    ax.set_yticks(y, counts.index)


def plot_ranking(rewards: pd.DataFrame, highlight: Sequence[str]) -> Figure:
    """Plot the rank of each method in several settings, best on top, a line for each method.

    Parameters
    ----------
    rewards : DataFrame
        Rewards with a row for each method and a column for each setting; names may have several lines.
    highlight : sequence of str
        Methods in colour; the others are grey.
    """
    ranks = rewards.rank(ascending=False, method="first")
    figure, ax = plt.subplots(figsize=(9, 0.34 * len(ranks) + 1.4), layout="constrained")
    styles = dict(zip(highlight, SERIES, strict=False))
    at = np.arange(len(ranks.columns))
    for method, row in ranks.iterrows():
        style = styles.get(str(method), {"color": "#BBBBBB", "linewidth": 1.0, "zorder": 1})
        ax.plot(at, row, marker="o", markersize=5, **style)
        colour = style["color"] if method in styles else "#666666"
        for x, rank, side in ((-0.12, row.iloc[0], "right"), (at[-1] + 0.12, row.iloc[-1], "left")):
            ax.text(x, rank, str(method), ha=side, va="center", color=colour, fontsize=9)
    ax.set_xticks(at, ranks.columns)
    ax.set(xlim=(-1.1, len(at) + 0.1), yticks=range(1, len(ranks) + 1), ylabel="rank by mean reward")
    ax.invert_yaxis()
    return closed_figure(figure)
