"""Allocation of an incentive under a budget (share, number or money), the largest rewards first."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import InputError, refuse_rows
from cfmtl_lib.policy.rewards import check_cost, check_spend


def allocate(
    reward: ArrayLike,
    budget: float | None = None,
    *,
    number: int | None = None,
    money: float | None = None,
    spend: ArrayLike | None = None,
) -> NDArray[np.bool_]:
    """Treat the rows of highest predicted reward, within one budget and only where it is positive.

    Parameters
    ----------
    reward : array_like of shape (n,), float
        Predicted reward of treating each row.
    budget : float, optional
        Largest *share* of the n rows that may be treated, in [0, 1]: at most ``floor(budget * n)`` rows. The
        share counts as written in decimal, so that ``0.29`` of 100 rows is 29.
    number : int, optional
        Largest number of rows.
    money : float, optional
        Largest sum of ``spend``. Rows are ranked by reward a unit of spend, and taken until the next one
        does not fit. The loss against the best policy is less than the reward of that row.
    spend : array_like of shape (n,), float >= 0
        Expected payment of each row, :func:`~cfmtl_lib.policy.rewards.expected_spend`; only with ``money``.

    Returns
    -------
    ndarray of shape (n,), bool
        True for the rows to treat. Ties at the threshold go to the rows that come first.

    Raises
    ------
    InputError
        If not exactly one budget is given, it is out of range, or rewards or spends are not finite vectors.

    Examples
    --------
    >>> allocate([0.3, -0.1, 0.9, 0.2], budget=0.5).tolist()
    [True, False, True, False]
    >>> allocate([0.3, -0.1, 0.9, 0.2], money=1.0, spend=[0.2, 0.1, 0.9, 0.3]).tolist()
    [True, False, False, False]
    """
    values = _checked_rewards(reward)
    check_one_budget(budget, number, money)
    if (spend is None) != (money is None):
        raise InputError("spend", expected="given with money, and only then", found="one without the other")
    if money is not None:
        return _by_money(values, check_cost(money, "money"), check_spend(spend, values.shape))
    n_treated = min(most_treated(len(values), budget, number), int((values > 0).sum()))
    if n_treated == 0:
        return np.zeros(len(values), dtype=bool)
    # A threshold found without sorting takes a tenth of the time.
    least = np.partition(values, len(values) - n_treated)[len(values) - n_treated]
    treat = values > least
    treat[np.flatnonzero(values == least)[: n_treated - int(treat.sum())]] = True
    return treat


def _by_money(values: NDArray[np.float64], money: float, spends: NDArray[np.float64]) -> NDArray[np.bool_]:
    wanted = np.flatnonzero(values > 0)
    with np.errstate(divide="ignore"):  # what costs nothing comes first
        order = wanted[np.argsort(-(values[wanted] / spends[wanted]), kind="stable")]
    treat = np.zeros(len(values), dtype=bool)
    treat[order[within(spends[order], money)]] = True
    return treat


def within(payments: NDArray[np.float64], money: float) -> NDArray[np.bool_]:
    """Mark the payments, made in this order, that the money suffices for; sums are allowed to round."""
    return np.cumsum(payments) <= money * (1 + 1e-12)


class ThresholdPolicy(NamedTuple):
    """Best policy under a budget, as probabilities.

    Attributes
    ----------
    probability : ndarray of shape (n,), float64
        Probability of treating each pair: 1 above the threshold, ``at_threshold`` at it, 0 below.
    threshold : float
        Least number >= 0 that the rewards of at most a share ``budget`` of the pairs exceed.
    at_threshold : float
        Share d in [0, 1] of the pairs at the threshold that is treated.
    """

    probability: NDArray[np.float64]
    threshold: float
    at_threshold: float


def threshold_policy(reward: ArrayLike, budget: float) -> ThresholdPolicy:
    """Find the policy of largest expected reward that treats at most a share ``budget`` of the pairs.

    :func:`allocate` treats whole pairs and lets the order of rows decide among ties. This function treats
    tied pairs with equal probability and uses the budget up exactly.

    Parameters
    ----------
    reward : array_like of shape (n,), float
        Expected reward of treating each pair.
    budget : float
        Largest share of the pairs that may be treated, in [0, 1].

    Returns
    -------
    ThresholdPolicy

    Raises
    ------
    InputError
        If the budget is no share, or rewards are not a finite vector.

    Examples
    --------
    >>> threshold_policy([0.3, -0.1, 0.9, 0.3], budget=0.5)
    ThresholdPolicy(probability=array([0.5, 0. , 1. , 0.5]), threshold=0.3, at_threshold=0.5)
    """
    values = _checked_rewards(reward)
    allowed = float(Decimal(repr(_checked_share(budget))) * len(values))
    positive = values > 0
    if positive.sum() <= allowed:
        return ThresholdPolicy(positive.astype(np.float64), 0.0, 0.0)
    descending = np.sort(values)[::-1]
    threshold = float(descending[min(math.floor(allowed), len(values) - 1)])
    above, tied = values > threshold, values == threshold
    share = float((allowed - above.sum()) / tied.sum())
    return ThresholdPolicy(above + share * tied, threshold, share)


def treatable(n_pairs: int, budget: float) -> int:
    """Count the pairs that a budget share allows: ``floor(budget * n_pairs)``.

    Examples
    --------
    >>> treatable(540_113, 0.4)
    216045
    """
    return math.floor(Decimal(repr(_checked_share(budget))) * n_pairs)


def check_one_budget(budget: float | None, number: int | None, money: float | None) -> None:
    """Refuse none, or more than one, of the three kinds of budget."""
    given = [name for name, v in (("budget", budget), ("number", number), ("money", money)) if v is not None]
    if len(given) != 1:
        raise InputError(
            "budget", expected="one of budget (a share), number, money", found=" and ".join(given) or "none"
        )


def most_treated(n: int, budget: float | None, number: int | None) -> int:
    """Count the rows, of n, that a share or a number allows."""
    if budget is not None:
        return treatable(n, budget)
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 0:
        raise InputError("number", expected="a whole number >= 0", found=repr(number))
    return min(int(number), n)


def _checked_rewards(reward: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(reward, dtype=np.float64)
    if values.ndim != 1:
        raise InputError("reward", expected="shape (n,)", found=f"shape {values.shape}")
    refuse_rows("reward", ~np.isfinite(values), expected="finite numbers", found="NaN or infinity")
    return values


def _checked_share(budget: float) -> float:
    try:
        share = float(budget)
    except (TypeError, ValueError):
        share = math.nan
    if not 0 <= share <= 1:
        raise InputError(
            "budget", expected="a share in [0, 1]", found=repr(budget), advice="Pass 0.4 for 40 %."
        )
    return share
