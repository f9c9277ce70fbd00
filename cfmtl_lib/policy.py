r"""From strata probabilities to a budgeted policy, and what that policy earns where strata are known.

The reward of treating a pair is linear in its strata probabilities
(:func:`~cfmtl_lib.strata.stratum_rewards`), so the best policy under a budget treats the pairs of
highest positive expected reward (KDD 2023 paper, Section 3.3).
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.strata import (
    ALWAYS_BUYER,
    COUPON_BUYER,
    COUPON_TAKER,
    SCENARIOS,
    STRATA,
    check_cost,
    check_costs,
    check_strata,
    stratum_rewards,
)


class OutcomeCounts(NamedTuple):
    """Whom a policy treated, by what treating them was worth.

    Attributes
    ----------
    positive : int
        Treated coupon buyers.
    negative : int
        Treated pairs on whom the cost is wasted: always buyers, in the cash scenario coupon takers too.
    neutral : int
        All other treated pairs.
    reward : float
        positive - cost * negative, in conversions.
    """

    positive: int
    negative: int
    neutral: int
    reward: float


def expected_reward(
    strata_probability: ArrayLike,
    scenario: str,
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Expected reward of treating each row.

    Parameters
    ----------
    strata_probability : array_like of shape (n, 5), float
        Columns in the order of :data:`~cfmtl_lib.strata.STRATA`. Rows must sum to 1 within 1e-4;
        entries may leave [0, 1], as plug-in estimates do.
    scenario : {"coupon", "cash"}
    cost : float, or array_like of shape (n,)
        Cost c >= 0 of one incentive, when it is paid.
    conversion_value : float, or array_like of shape (n,), optional
        What a conversion is worth before the incentive is paid, in the units of ``cost``. 1 + cost if left
        out, as in the paper: the unit then is one conversion net of its incentive. In money, or with several
        incentives whose costs differ, give it.

    Returns
    -------
    ndarray of shape (n,), float64
        In conversions a row, or in the units of ``conversion_value``.

    Raises
    ------
    InputError
        If the shape is wrong, a value is not finite, a row does not sum to 1, or scenario, cost or value are
        bad.

    Examples
    --------
    >>> p = [[0.1, 0.1, 0.2, 0.5, 0.1]]
    >>> expected_reward(p, scenario="coupon", cost=0.4).round(6).tolist()
    [0.46]
    >>> expected_reward(p, scenario="coupon", cost=4.0, conversion_value=14.0).round(6).tolist()  # in euros
    [4.6]
    """
    p = _checked_strata_probability(strata_probability)
    if np.ndim(cost) == 0 and conversion_value is None:
        weights = stratum_rewards(scenario, cost)  # type: ignore[arg-type]
        return p @ weights
    costs = check_costs(cost, len(p))
    value = (
        1 + costs if conversion_value is None else check_costs(conversion_value, len(p), "conversion_value")
    )
    return value * p[:, COUPON_BUYER] - expected_spend(p, scenario, costs)


def expected_spend(
    strata_probability: ArrayLike, scenario: str, cost: float | ArrayLike
) -> NDArray[np.float64]:
    """What treating each row is expected to pay out: a coupon when it is used in a purchase, cash when taken.

    Parameters
    ----------
    strata_probability, scenario, cost
        As in :func:`expected_reward`.

    Returns
    -------
    ndarray of shape (n,), float64
        In the units of ``cost``.

    Raises
    ------
    InputError
        As :func:`expected_reward`.

    Examples
    --------
    >>> expected_spend([[0.1, 0.1, 0.2, 0.5, 0.1]], scenario="coupon", cost=[0.5]).round(6).tolist()
    [0.3]
    """
    p = _checked_strata_probability(strata_probability)
    paid = {"coupon": [COUPON_BUYER, ALWAYS_BUYER], "cash": [COUPON_TAKER, COUPON_BUYER, ALWAYS_BUYER]}
    payers = p[:, paid[check_choice("scenario", scenario, SCENARIOS)]].sum(axis=1)
    return check_costs(cost, len(p)) * payers


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
        Largest *share* of the n rows that may be treated, in [0, 1]: at most ``floor(budget * n)`` (the share
        as written in decimal, so that ``0.29`` of 100 rows is 29).
    number : int, optional
        Largest number of rows.
    money : float, optional
        Largest sum of ``spend``. Rows are ranked by reward a unit of spend, and taken until the next one
        does not fit: by less than the reward of that row below the best that any policy can do.
    spend : array_like of shape (n,), float >= 0
        Expected payment of each row, :func:`expected_spend`; only with ``money``.

    Returns
    -------
    ndarray of shape (n,), bool
        Ties at the threshold go to the rows that come first.

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
    """Which of the payments, made in this order, the money suffices for; sums are allowed to round."""
    return np.cumsum(payments) <= money * (1 + 1e-12)


class ThresholdPolicy(NamedTuple):
    """The best policy under a budget, as probabilities.

    Attributes
    ----------
    probability : ndarray of shape (n,), float64
        1 above the threshold, ``at_threshold`` at it, 0 below.
    threshold : float
        Least number >= 0 that the rewards of at most a share ``budget`` of the pairs exceed.
    at_threshold : float
        Share d in [0, 1] of the pairs at the threshold that is treated.
    """

    probability: NDArray[np.float64]
    threshold: float
    at_threshold: float


def threshold_policy(reward: ArrayLike, budget: float) -> ThresholdPolicy:
    """The policy of largest expected reward that treats a share of at most ``budget`` of the pairs.

    Where :func:`allocate` treats whole pairs and lets the order of rows decide among ties, this one treats
    tied pairs with equal probability and uses the budget up exactly.

    Parameters
    ----------
    reward : array_like of shape (n,), float
        Expected reward of treating each pair.
    budget : float
        In [0, 1].

    Returns
    -------
    ThresholdPolicy

    Raises
    ------
    InputError
        As in :func:`allocate`.

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
    """Largest number of pairs that a budget share allows: floor(budget * n_pairs).

    Examples
    --------
    >>> treatable(540_113, 0.4)
    216045
    """
    return math.floor(Decimal(repr(_checked_share(budget))) * n_pairs)


def count_outcomes(treat: ArrayLike, stratum: ArrayLike, scenario: str, cost: float) -> OutcomeCounts:
    """Count whom a policy treated, where the true strata are known (columns of Table 4).

    Parameters
    ----------
    treat : array_like of shape (n,), bool or 0/1
    stratum : array_like of shape (n,), integer
        True stratum of each pair, an index into :data:`~cfmtl_lib.strata.STRATA`.
    scenario : {"coupon", "cash"}
    cost : float
        Cost c >= 0 of one incentive, in units of one conversion.

    Returns
    -------
    OutcomeCounts

    Raises
    ------
    InputError
        If shapes differ, ``treat`` is not boolean or 0/1, or a stratum is no index 0-4.

    Examples
    --------
    >>> count_outcomes([True, True, True, False], [3, 4, 2, 3], scenario="cash", cost=0.4)
    OutcomeCounts(positive=1, negative=2, neutral=0, reward=0.2)
    """
    true_stratum = check_strata(stratum)
    treated = np.asarray(treat)
    if treated.shape != true_stratum.shape:
        raise InputError("treat", expected=f"shape {true_stratum.shape}", found=f"shape {treated.shape}")
    if treated.dtype != bool:
        # A list of target indices would otherwise pass as 0/1 by accident.
        _refuse_first("treat", ~np.isin(treated, (0, 1)), "True/False or 0/1", "another value")
        treated = treated.astype(bool)
    rewards = stratum_rewards(scenario, cost)
    counts = np.bincount(true_stratum[treated], minlength=len(STRATA))
    positive = int(counts[COUPON_BUYER])
    negative = int(counts[ALWAYS_BUYER]) + (int(counts[COUPON_TAKER]) if scenario == "cash" else 0)
    return OutcomeCounts(
        positive=positive,
        negative=negative,
        neutral=int(counts.sum()) - positive - negative,
        reward=round(float(counts @ rewards), 6),
    )


def check_one_budget(budget: float | None, number: int | None, money: float | None) -> None:
    """Refuse none, or more than one, of the three kinds of budget."""
    given = [name for name, v in (("budget", budget), ("number", number), ("money", money)) if v is not None]
    if len(given) != 1:
        raise InputError(
            "budget", expected="one of budget (a share), number, money", found=" and ".join(given) or "none"
        )


def most_treated(n: int, budget: float | None, number: int | None) -> int:
    """Rows of n that a share or a number allows."""
    if budget is not None:
        return treatable(n, budget)
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 0:
        raise InputError("number", expected="a whole number >= 0", found=repr(number))
    return min(int(number), n)


def check_spend(spend: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Payments of a given shape, finite and >= 0.

    Raises
    ------
    InputError
        Naming the first row that has none.
    """
    spends = np.asarray(spend, dtype=np.float64)
    if spends.shape != shape:
        raise InputError("spend", expected=f"shape {shape}", found=f"shape {spends.shape}")
    wrong = ~(np.isfinite(spends) & (spends >= 0))
    _refuse_first("spend", wrong.reshape(len(spends), -1).any(axis=1), "finite numbers >= 0", "another value")
    return spends


def _checked_strata_probability(strata_probability: ArrayLike) -> NDArray[np.float64]:
    p = np.asarray(strata_probability, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] != len(STRATA):
        raise InputError("strata_probability", expected="shape (n, 5)", found=f"shape {p.shape}")
    _refuse_first("strata_probability", ~np.isfinite(p).all(axis=1), "finite numbers", "NaN or infinity")
    _refuse_first(
        "strata_probability", np.abs(p.sum(axis=1) - 1) > 1e-4, "rows that sum to 1", "a row that does not"
    )
    return p


def _checked_rewards(reward: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(reward, dtype=np.float64)
    if values.ndim != 1:
        raise InputError("reward", expected="shape (n,)", found=f"shape {values.shape}")
    _refuse_first("reward", ~np.isfinite(values), "finite numbers", "NaN or infinity")
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


def _refuse_first(subject: str, wrong: ArrayLike, expected: str, found: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        raise InputError(subject, expected=expected, found=found, row=int(rows[0]))
