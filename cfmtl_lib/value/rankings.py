"""Rankings of units by a score, and the bootstrap of curves and bands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.row_arguments import labels_by_row, numbers_by_row


class Ranking:
    """Units in the order of one score, with the reward and payment of each.

    Units of equal scores are treated with equal probability. In a sorted log, their order would carry the
    outcomes.
    """

    def __init__(
        self,
        score: ArrayLike,
        reward: NDArray[np.float64],
        spend: NDArray[np.float64],
        only_positive: bool,
        index: pd.Index | None = None,
        subject: str = "score",
    ) -> None:
        values = numbers_by_row(subject, score, len(reward), index)
        self.order = np.argsort(-values, kind="stable")
        self.reward, self.spend = reward[self.order], spend[self.order]
        in_line = values[self.order]
        # Curves pass through the ends of runs of equal scores, and are straight between them.
        self.ends = np.append(0, np.flatnonzero(np.append(in_line[1:] < in_line[:-1], True)) + 1)
        self.wanted = values > 0 if only_positive else np.ones(len(values), dtype=bool)
        self.last = int(np.searchsorted(self.ends, int(self.wanted.sum())))

    def at(
        self, budgets: NDArray[np.float64], by: str, weight: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Compute value, spend and share treated at k budgets, with weighted units; each of shape (k,)."""
        in_order = weight[self.order]
        total = float(in_order.sum())
        share, value, spend = (
            np.concatenate([[0.0], np.cumsum(part)])[self.ends] / total
            for part in (in_order, in_order * self.reward, in_order * self.spend)
        )
        last = self.last
        if by == "share":
            reached = np.minimum(budgets, share[last])
        else:
            # Scores of payments can be negative for a unit; money once spent is not earned back.
            spent = np.maximum.accumulate(spend[: last + 1])
            after = np.minimum(np.searchsorted(spent, budgets, side="left"), last)
            before = np.maximum(after - 1, 0)
            step = spend[after] - spend[before]
            part = np.divide(budgets - spend[before], step, out=np.ones(len(budgets)), where=step > 0)
            reached = share[before] + np.clip(part, 0, 1) * (share[after] - share[before])
        # Between two ends the next units are treated with the probability that uses the budget up.
        return np.interp(reached, share, value), np.interp(reached, share, spend), reached


def bootstrap_weights(n: int, clusters: ArrayLike | None, seed: int) -> Callable[[int], NDArray[np.float64]]:
    """Return the draw of a Bayesian bootstrap: exponential weights of units or clusters, by replicate."""
    member, n_groups = None, n
    if clusters is not None:
        names, member = labels_by_row("clusters", clusters, n)
        n_groups = len(names)
    if n_groups < 2:
        raise InputError("clusters", expected="at least two units or clusters", found=str(n_groups))

    def draw(index: int) -> NDArray[np.float64]:
        # A stream a replicate: threads in any order draw the same.
        weight = np.random.default_rng([seed, index]).standard_exponential(n_groups)
        return weight if member is None else weight[member]

    return draw


def uniform_factor(
    replicates: NDArray[np.float64], value: NDArray[np.float64], error: NDArray[np.float64], level: float
) -> float:
    """Find how many standard errors wide a band must be to hold the curve with probability ``level``."""
    moving = error > 1e-12 * max(1.0, float(np.abs(value).max()))
    if not moving.any():
        return 0.0
    largest = (np.abs(replicates[:, moving] - value[moving]) / error[moving]).max(axis=1)
    # A band is never narrower than the pointwise intervals.
    return max(float(np.quantile(largest, level)), float(stats.norm.ppf((1 + level) / 2)))


def mean_height(grid: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average curves over their axis; the result has shape (...,)."""
    return np.trapezoid(values, grid, axis=-1) / (grid[-1] - grid[0])
