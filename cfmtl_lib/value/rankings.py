"""Rankings of units by a score, and the bootstrap of curves and bands."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cfmtl_lib.errors import InputError, refuse_rows
from cfmtl_lib.value.estimates import check_labels


class Ranking:
    """Units in the order of one score, with the reward and payment of each."""

    def __init__(
        self, score: ArrayLike, reward: NDArray[np.float64], spend: NDArray[np.float64], only_positive: bool
    ) -> None:
        values = np.asarray(score, dtype=np.float64)
        if values.shape != reward.shape:
            raise InputError("score", expected=f"shape {reward.shape}", found=f"shape {values.shape}")
        refuse_rows("score", ~np.isfinite(values), expected="finite numbers", found="NaN or infinity")
        self.order = np.argsort(-values, kind="stable")
        self.n_wanted = int((values > 0).sum()) if only_positive else len(values)
        self.reward, self.spend = reward[self.order], spend[self.order]

    def at(
        self, budgets: NDArray[np.float64], by: str, weight: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Compute value, spend and share treated at k budgets, with weighted units; each of shape (k,)."""
        in_order = weight[self.order]
        total = float(in_order.sum())
        share = np.concatenate([[0.0], np.cumsum(in_order)]) / total
        value = np.concatenate([[0.0], np.cumsum(in_order * self.reward)]) / total
        spend = np.concatenate([[0.0], np.cumsum(in_order * self.spend)]) / total
        last = self.n_wanted
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
        # Between two units the next one is treated with the probability that uses the budget up.
        return np.interp(reached, share, value), np.interp(reached, share, spend), reached


def bootstrap_weights(n: int, clusters: ArrayLike | None, seed: int) -> Callable[[int], NDArray[np.float64]]:
    """Return the draw of a Bayesian bootstrap: exponential weights of units or clusters, by replicate."""
    member, n_groups = None, n
    if clusters is not None:
        names, member = check_labels("clusters", clusters, n)
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
