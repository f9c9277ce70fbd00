r"""Allocation of several incentives under a common budget: for each row the best one, or none.

Let :math:`r_{ia}` be the predicted reward and :math:`s_{ia}` the payment of incentive a for row i. The policy
solves the multiple-choice knapsack problem in its linear relaxation (Sinha and Zoltners, 1979). The steps
run along the upper convex hull of each row's points :math:`(s_{ia}, r_{ia})` and (0, 0). They are taken in
the order of reward gained a unit of money. One that does not fit in what is left is passed over. See also
Sverdrup, Wu, Athey and Wager (2025), "Qini curves for multi-armed treatment rules".
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.row_arguments import same_rows, table_of_numbers
from cfmtl_lib.policy.allocation import affordable, check_one_budget, keys_of, most_treated
from cfmtl_lib.policy.arguments import check_cost, check_spend
from cfmtl_lib.policy.ties import TieKeys, highest, in_order

NO_ARM = -1
"""Index that marks rows without an incentive."""


class ArmChoice(np.ndarray):
    """Index of the incentive of each row, -1 for none: an array that no function takes for a policy.

    Read as 0/1, "the first incentive" would be "untreated". Comparisons give plain booleans: ``arms >= 0``
    are the rows with an incentive, ``arms == 1`` those with the second one.
    """

    is_arm_index = True

    def __array_wrap__(self, array: NDArray, context: object = None, return_scalar: bool = False) -> Any:
        """Return results of computations as plain arrays."""
        return array[()] if return_scalar else np.asarray(array)


def allocate_arms(
    reward: ArrayLike,
    budget: float | None = None,
    *,
    number: int | None = None,
    money: float | None = None,
    spend: ArrayLike | None = None,
    ties: str = "random",
    seed: int = 0,
) -> ArmChoice:
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
        Expected payments, :func:`~cfmtl_lib.policy.rewards.expected_spend`; only with ``money``. A DataFrame
        is matched with the labels and column names of ``reward``.
    ties, seed
        As in :func:`~cfmtl_lib.policy.allocation.allocate`. In a row, the first of equal incentives counts.

    Returns
    -------
    ArmChoice of shape (n,), int64
        Index of the incentive, or -1 for none. It is no policy: pass ``arms >= 0`` or ``arms == k``.

    Raises
    ------
    InputError
        If not exactly one budget is given, or arrays have wrong shapes or values.

    Notes
    -----
    With k = 1 this is :func:`~cfmtl_lib.policy.allocation.allocate`. Under ``money``, its reward is below
    that of the best policy by less than the largest step of one row. Steps that do not fit are passed over.
    The money that is left goes to later and cheaper ones.

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
    values = table_of_numbers("reward", reward)
    if 0 in values.shape:
        raise InputError("reward", expected="shape (n, k), n and k > 0", found=f"shape {values.shape}")
    check_one_budget(budget, number, money, spend)
    keys = keys_of(reward, ties, seed)
    if money is None:
        # Every incentive takes one place: the best of each row competes.
        best = values.argmax(axis=1)
        top = values[np.arange(len(values)), best]
        k = min(most_treated(len(values), budget, number), int((top > 0).sum()))
        return np.where(highest(top, k, keys), best, NO_ARM).astype(np.int64).view(ArmChoice)
    names = list(reward.columns) if isinstance(reward, pd.DataFrame) else ()
    payments = table_of_numbers("spend", same_rows("spend", spend, reward), names)
    spends, amount = check_spend(payments, values.shape), check_cost(money, "money")
    return _by_money(values, spends, amount, keys).view(ArmChoice)


def _by_money(
    values: NDArray[np.float64], spends: NDArray[np.float64], money: float, keys: TieKeys
) -> NDArray[np.int64]:
    n = len(values)
    chosen = np.full(n, NO_ARM, dtype=np.int64)
    at_value, at_spend, left = np.zeros(n), np.zeros(n), money
    allowed = spends
    while True:
        row, arm, slope, payment = _steps(values, allowed, at_value, at_spend)
        # Slopes of one row fall and its keys are the same: its steps stay in their order.
        order = in_order(-slope, partial(_of_rows, keys, row))
        row, arm, payment = row[order], arm[order], payment[order]
        made = affordable(payment, left, _next_of_row(row))
        if not made.any() and allowed is not spends:
            return chosen
        row, arm = row[made], arm[made]
        chosen[row] = arm  # of a row's steps the last one counts
        at_value[row], at_spend[row] = values[row, arm], spends[row, arm]
        left = max(money - float(spends[chosen >= 0, chosen[chosen >= 0]].sum()), 0.0)
        # A cheaper incentive may fit where the best one for the money did not.
        allowed = np.where(spends - at_spend[:, None] <= left, spends, np.inf)


def _of_rows(keys: TieKeys, row: NDArray[np.intp]) -> NDArray[np.uint64]:
    return keys()[row]


def _next_of_row(row: NDArray[np.intp]) -> NDArray[np.intp]:
    """Find the position of the next step of the same row, -1 for the last."""
    by_row = np.argsort(row, kind="stable")
    following = np.full(len(row), -1, dtype=np.intp)
    same = row[by_row[1:]] == row[by_row[:-1]]
    following[by_row[:-1][same]] = by_row[1:][same]
    return following


def _steps(
    values: NDArray[np.float64],
    spends: NDArray[np.float64],
    at_value: NDArray[np.float64],
    at_spend: NDArray[np.float64],
) -> tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """List the steps along each row's convex hull: row, arm reached, reward a unit of money, money.

    Steps begin at the reward and the payment that a row has already. Infinite spends are never reached.
    """
    n, k = values.shape
    at_value, at_spend, last_slope = at_value.copy(), at_spend.copy(), np.full(n, np.inf)
    found = []
    for _ in range(k):
        gain, price = values - at_value[:, None], spends - at_spend[:, None]
        better = (gain > 0) & (price >= 0) & np.isfinite(spends)
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
