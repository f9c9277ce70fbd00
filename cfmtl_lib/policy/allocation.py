"""Allocation of an incentive under a budget (share, number or money), the largest rewards first."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.checks import check_count, check_seed, describe, real_number
from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.logs.row_arguments import numbers_by_row, same_rows
from cfmtl_lib.policy.arguments import check_cost, check_spend
from cfmtl_lib.policy.origin import learned, learned_on
from cfmtl_lib.policy.ties import TieKeys, highest, in_order, tie_keys

TIES = ("random", "first")


def allocate(
    reward: ArrayLike,
    budget: float | None = None,
    *,
    number: int | None = None,
    money: float | None = None,
    spend: ArrayLike | None = None,
    ties: str = "random",
    seed: int = 0,
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
        Largest sum of ``spend``. Rows are ranked by reward a unit of spend. A row that does not fit into the
        money that is left is passed over for later ones. The loss against the best policy is less than the
        reward of the first row that does not fit.
    spend : array_like of shape (n,), float >= 0
        Expected payment of each row, :func:`~cfmtl_lib.policy.rewards.expected_spend`; only with ``money``. A
        Series is matched with the labels of ``reward``.
    ties : {"random", "first"}
        Rows that are taken of those with equal rewards. "random" draws them by the seed, from the labels of a
        Series or else the positions. "first" takes those that come first. Use it only if the order of rows
        says nothing about outcomes.
    seed : int
        Seed of the draw among ties.

    Returns
    -------
    ndarray of shape (n,), bool
        True for the rows to treat, in the order of ``reward``.

    Raises
    ------
    InputError
        If not exactly one budget is given, it is out of range, or rewards or spends are not finite vectors.

    Examples
    --------
    >>> allocate([0.3, -0.1, 0.9, 0.2], budget=0.5).tolist()
    [True, False, True, False]
    >>> allocate([0.3, -0.1, 0.9, 0.2], money=1.0, spend=[0.2, 0.1, 0.9, 0.3]).tolist()
    [True, False, False, True]
    """
    values = numbers_by_row("reward", reward)
    check_one_budget(budget, number, money, spend)
    n, keys = len(values), keys_of(reward, ties, seed)
    if money is None:
        n_treated = min(most_treated(n, budget, number), int((values > 0).sum()))
        return learned(highest(values, n_treated, keys), learned_on(reward))
    amount = check_cost(money, "money")
    spends = check_spend(same_rows("spend", spend, reward), values.shape)
    wanted = np.flatnonzero(values > 0)
    with np.errstate(divide="ignore", over="ignore"):  # what costs nothing comes first
        slope = values[wanted] / spends[wanted]
    order = wanted[in_order(-slope, lambda: keys()[wanted])]
    treat = np.zeros(n, dtype=bool)
    treat[order[affordable(spends[order], amount)]] = True
    return learned(treat, learned_on(reward))


def keys_of(rows: ArrayLike, ties: str, seed: int) -> TieKeys:
    """Return the function of the numbers by which equal rows are ordered: at random, or as they come."""
    n, seed = len(rows), check_seed(seed)  # type: ignore[arg-type]
    if check_choice("ties", ties, TIES) == "first":
        return lambda: np.arange(n, dtype=np.uint64)
    return lambda: tie_keys(n, seed, rows)


def affordable(
    payments: NDArray[np.float64], money: float, following: NDArray[np.intp] | None = None
) -> NDArray[np.bool_]:
    """Mark the payments that are made, in this order, passing over each that does not fit in what is left.

    It marks what the plain loop does, with sums that are allowed to round by 1e-12 of the money.

    Parameters
    ----------
    payments : ndarray of shape (m,), float64
        Payments >= 0.
    money : float
        Amount to spend.
    following : ndarray of shape (m,), int, optional
        Position of a later payment that can be made only if this one is; -1 for none.

    Examples
    --------
    >>> affordable(np.array([2.0, 9.0, 3.0, 1.0]), 5.5).tolist()
    [True, False, True, False]
    """
    limit, n = money * (1 + 1e-12), len(payments)
    payments = payments.copy()
    made = np.zeros(n, dtype=bool)
    least_from = np.minimum.accumulate(payments[::-1])[::-1]
    spent, start, size = 0.0, 0, n
    while start < n and spent + least_from[start] <= limit:
        sums = np.cumsum(np.append(spent, payments[start : start + size]))[1:]
        fitting = int(np.searchsorted(sums, limit, side="right"))
        if fitting:
            made[start : start + fitting] = True
            spent, start = float(sums[fitting - 1]), start + fitting
        if fitting == len(sums):
            size *= 2
            continue
        # Blocks stay short after a payment that did not fit: long sums would be thrown away.
        size = _BLOCK
        while start < n:
            block = payments[start : start + size]
            fits = spent + block <= limit
            skipped = int(fits.argmax()) if fits.any() else len(block)
            if following is not None:
                later = following[start : start + skipped]
                payments[later[later >= 0]] = np.inf
            start += skipped
            if skipped < len(block):
                break
            size *= 2
        size = _BLOCK
    return made


_BLOCK = 64


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

    :func:`allocate` treats whole pairs and draws among ties. This function treats tied pairs with equal
    probability and uses the budget up exactly.

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
    values = numbers_by_row("reward", reward)
    allowed = float(_checked_share(budget) * len(values))
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
    return math.floor(_checked_share(budget) * check_count(n_pairs, "n_pairs", least=0))


def check_one_budget(
    budget: float | None, number: int | None, money: float | None, spend: ArrayLike | None
) -> None:
    """Refuse none, or more than one, of the three kinds of budget, and a spend without money."""
    given = [name for name, v in (("budget", budget), ("number", number), ("money", money)) if v is not None]
    if len(given) != 1:
        raise InputError(
            "budget", expected="one of budget (a share), number, money", found=" and ".join(given) or "none"
        )
    if (spend is None) != (money is None):
        raise InputError("spend", expected="given with money, and only then", found="one without the other")


def most_treated(n: int, budget: float | None, number: int | None) -> int:
    """Count the rows, of n, that a share or a number allows."""
    if budget is not None:
        return treatable(n, budget)
    return min(check_count(number, "number", least=0), n)


def check_share(budget: object) -> float:
    """Return a budget as a share in [0, 1]; see :func:`allocate`."""
    return float(_checked_share(budget))


def _checked_share(budget: object) -> Decimal:
    share = real_number(budget)
    if not 0 <= share <= 1:
        advice = f"Pass {share / 100:g} for {share:g} %, or number= for a count." if 1 < share <= 100 else ""
        raise InputError(
            "budget",
            expected="a share in [0, 1]",
            found=describe(budget),
            advice=advice or "Pass 0.4 for 40 %.",
        )
    # As written: the float32 of 0.4 is 0.4, and not the float64 next to it.
    return Decimal(str(budget) if isinstance(budget, np.floating) else repr(share))
