r"""Allocation of several incentives under a common budget: for each row the best one, or none.

Let :math:`r_{ia}` be the predicted reward and :math:`s_{ia}` the payment of incentive a for row i. The policy
solves the multiple-choice knapsack problem in its linear relaxation (Sinha and Zoltners, 1979). The steps
run along the upper convex hull of each row's points :math:`(s_{ia}, r_{ia})` and (0, 0). They are taken in
the order of reward gained a unit of money, until the money is spent. See also Sverdrup, Wu, Athey and Wager
(2025), "Qini curves for multi-armed treatment rules".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import InputError
from cfmtl_lib.policy.allocation import check_one_budget, most_treated, within
from cfmtl_lib.policy.rewards import check_cost, check_spend

NO_ARM = -1
"""Index that marks rows without an incentive."""


def allocate_arms(
    reward: ArrayLike,
    budget: float | None = None,
    *,
    number: int | None = None,
    money: float | None = None,
    spend: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """Choose at most one incentive for each row, within one budget for all.

    Parameters
    ----------
    reward : array_like of shape (n, k), float
        Predicted reward of giving each of k incentives to each row, in one unit for all: pass
        ``conversion_value`` to :func:`~cfmtl_lib.policy.rewards.expected_reward`.
    budget : float, optional
        Largest share of the rows with an incentive, as in :func:`~cfmtl_lib.policy.allocation.allocate`.
    number : int, optional
        Largest number of rows with an incentive.
    money : float, optional
        Largest sum of the chosen ``spend``.
    spend : array_like of shape (n, k), float >= 0
        Expected payments, :func:`~cfmtl_lib.policy.rewards.expected_spend`; only with ``money``.

    Returns
    -------
    ndarray of shape (n,), int64
        Index of the incentive, or -1 for none.

    Raises
    ------
    InputError
        If not exactly one budget is given, or arrays have wrong shapes or values.

    Notes
    -----
    With k = 1 this is :func:`~cfmtl_lib.policy.allocation.allocate`. Under ``money``, its reward is below
    that of the best policy by less than the largest step of one row.

    Examples
    --------
    A large coupon earns more on the first row; a small one is the better use of little money:

    >>> reward, spend = [[0.5, 0.8], [0.3, 0.2]], [[0.2, 1.0], [0.3, 0.9]]
    >>> allocate_arms(reward, money=0.5, spend=spend).tolist()
    [0, 0]
    >>> allocate_arms(reward, money=2.0, spend=spend).tolist()
    [1, 0]
    >>> allocate_arms(reward, number=1).tolist()
    [1, -1]
    """
    values = np.asarray(reward, dtype=np.float64)
    if values.ndim != 2 or 0 in values.shape or not np.isfinite(values).all():
        raise InputError("reward", expected="finite numbers of shape (n, k)", found=f"shape {values.shape}")
    check_one_budget(budget, number, money)
    if (spend is None) != (money is None):
        raise InputError("spend", expected="given with money, and only then", found="one without the other")
    if money is None:
        # Every incentive takes one place: the best of each row competes.
        best = values.argmax(axis=1)
        top = values[np.arange(len(values)), best]
        order = np.argsort(-top, kind="stable")[: most_treated(len(values), budget, number)]
        chosen = np.full(len(values), NO_ARM, dtype=np.int64)
        taken = order[top[order] > 0]
        chosen[taken] = best[taken]
        return chosen
    return _by_money(values, check_spend(spend, values.shape), check_cost(money, "money"))


def _by_money(values: NDArray[np.float64], spends: NDArray[np.float64], money: float) -> NDArray[np.int64]:
    row, arm, slope, payment = _steps(values, spends)
    # Slopes of one row fall, and the order is stable: a row's steps stay in theirs.
    order = np.argsort(-slope, kind="stable")
    taken = order[within(payment[order], money)]
    chosen = np.full(len(values), NO_ARM, dtype=np.int64)
    chosen[row[taken]] = arm[taken]  # of a row's steps the last one counts
    return chosen


def _steps(
    values: NDArray[np.float64], spends: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """List the steps along each row's convex hull: row, arm reached, reward a unit of money, money."""
    n, k = values.shape
    at_value, at_spend, last_slope = np.zeros(n), np.zeros(n), np.full(n, np.inf)
    found = []
    for _ in range(k):
        gain, price = values - at_value[:, None], spends - at_spend[:, None]
        better = (gain > 0) & (price >= 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(better, gain / price, -np.inf)
        # Of arms on one line the dearest: the step is the same, and done at once.
        best = np.lexsort((gain, slope), axis=1)[:, -1] if k > 1 else np.zeros(n, dtype=np.intp)
        rows = np.flatnonzero(better.any(axis=1))
        if not rows.size:
            break
        arms = best[rows]
        # Slopes of a hull fall; rounding must not turn two of them round.
        last_slope[rows] = np.minimum(slope[rows, arms], last_slope[rows])
        found.append((rows, arms, last_slope[rows], price[rows, arms]))
        at_value[rows], at_spend[rows] = values[rows, arms], spends[rows, arms]
    if not found:
        empty = np.zeros(0)
        return empty.astype(np.intp), empty.astype(np.int64), empty, empty
    row, arm, slope, payment = (np.concatenate(part) for part in zip(*found, strict=True))
    return row, arm.astype(np.int64), slope, payment
