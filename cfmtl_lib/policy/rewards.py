r"""Reward and payment of treating a unit, in each scenario.

With conversion value v and cost c, treating a unit earns

.. math::
    r = v\,(Y(1) - Y(0)) - c\,W, \qquad
    W = C(1)\,Y(1) \text{ (coupon)}, \quad W = C(1) \text{ (cash)},

and v = 1 + c in the paper, so that the unit is one conversion net of its incentive. The reward is linear in
the strata probabilities. So the best policy under a budget treats the units of highest positive expected
reward. See Table 1 and Section 3.3 of the KDD 2023 paper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import check_choice, refuse_rows
from cfmtl_lib.logs.alignment import index_of
from cfmtl_lib.logs.row_arguments import is_one_number
from cfmtl_lib.policy.arguments import (
    check_cost,
    check_costs,
    check_policy,
    check_strata_probability,
    warn_of_units,
)
from cfmtl_lib.strata import COUPON_BUYER, POTENTIAL_OUTCOMES, STRATA, check_strata


class Payment(NamedTuple):
    """Rule by which a scenario pays for an incentive that was given.

    Attributes
    ----------
    is_due : callable
        Function of collected and converted (0/1, or arrays); it returns 1 where the incentive is paid for.
    moment : str
        Name of its conditional mean in :data:`~cfmtl_lib.nuisances.moments.MOMENTS`.
    """

    is_due: Callable
    moment: str


PAYMENTS = {
    "coupon": Payment(lambda collected, converted: collected * converted, "collected_and_converted_treated"),
    "cash": Payment(lambda collected, converted: collected, "collected_treated"),
}
"""Rules by scenario: a coupon costs when it is used for a purchase, cash whenever it is collected."""

SCENARIOS = tuple(PAYMENTS)


def payment_of(scenario: str) -> Payment:
    """Look up the payment rule of a scenario.

    Raises
    ------
    UnknownNameError
        If the scenario is unknown.
    """
    return PAYMENTS[check_choice("scenario", scenario, PAYMENTS)]


def stratum_rewards(scenario: str, cost: float) -> NDArray[np.float64]:
    """Compute the reward of treating a unit of each stratum (KDD 2023 paper, Table 1, with s(x) = 1).

    Parameters
    ----------
    scenario : {"coupon", "cash"}
        Payment rule: a coupon costs when it is used for a purchase, cash whenever it is collected.
    cost : float
        Cost c >= 0 of one incentive, in units of one conversion net of it.

    Returns
    -------
    ndarray of shape (5,), float64
        Rewards in the order of :data:`~cfmtl_lib.strata.STRATA`.

    Raises
    ------
    InputError
        If the scenario is unknown, or the cost is negative or not finite.

    Examples
    --------
    >>> stratum_rewards("cash", cost=0.4).tolist()
    [0.0, 0.0, -0.4, 1.0, -0.4]
    """
    paid, gained = _paid_and_gained(scenario)
    cost = check_cost(cost)
    warn_of_units(cost, None)
    # v = 1 + c: written so that a coupon buyer's cost and value cancel without rounding.
    return gained - cost * (paid - gained)


def reward_of_means(
    converted_treated: NDArray[np.float64],
    converted_untreated: NDArray[np.float64],
    paid: NDArray[np.float64],
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
    index: pd.Index | None = None,
) -> NDArray[np.float64]:
    r"""Compute the reward of treating, :math:`v\,(\mu_1 - \mu_0) - c\,w`, from means or scores of rows.

    Parameters
    ----------
    converted_treated, converted_untreated : ndarray of shape (n,), float64
        Means (or scores) of Y under treatment and without.
    paid : ndarray of shape (n,), float64
        Means (or scores) of the paid outcome under treatment, ``payment_of(scenario).moment``.
    cost, conversion_value
        As in :func:`expected_reward`.
    index : pandas.Index, optional
        Labels of the rows, which a Series has to match.

    Returns
    -------
    ndarray of shape (n,), float64

    Raises
    ------
    InputError
        If cost or value is negative, not finite, or of another shape.

    Examples
    --------
    >>> mu1, mu0, tau = np.array([0.6]), np.array([0.5]), np.array([0.45])
    >>> reward_of_means(mu1, mu0, tau, cost=0.4).round(6).tolist()
    [-0.04]
    """
    costs = check_costs(cost, len(paid), index=index)
    value = values_of_conversion(costs, conversion_value, len(paid), index)
    return value * (converted_treated - converted_untreated) - costs * paid


NET_CONVERSIONS = "net conversions"
"""Unit of rewards that count conversions, each net of its incentive."""

CONVERSION_VALUE, OUTCOME = "units of conversion_value", "units of outcome"
"""Units of rewards in money: that of the value of a conversion, or of the outcome of a log."""


def unit_of(conversion_value: float | ArrayLike | None, in_money: bool = False) -> str:
    """Name the unit of a reward, as it is printed beside values.

    Parameters
    ----------
    conversion_value
        As in :func:`expected_reward`. If it is given, conversions are valued, and not the outcome in money.
    in_money : bool
        Whether the log has an outcome in money.
    """
    if conversion_value is not None:
        return CONVERSION_VALUE
    return OUTCOME if in_money else NET_CONVERSIONS


def values_of_conversion(
    costs: float | NDArray[np.float64],
    conversion_value: float | ArrayLike | None,
    n: int,
    index: pd.Index | None = None,
) -> float | NDArray[np.float64]:
    """Return the value of a conversion before the incentive is paid: 1 + cost unless it is given.

    Warns
    -----
    UnitWarning
        If cost and value cannot well be in one unit.
    """
    value = None if conversion_value is None else check_costs(conversion_value, n, "conversion_value", index)
    warn_of_units(costs, value)
    return 1 + costs if value is None else value


def _paid_and_gained(scenario: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Tell for each stratum whether treating pays an incentive, and whether it gains a conversion."""
    _, c1, y0, y1 = POTENTIAL_OUTCOMES.T.astype(np.float64)
    return payment_of(scenario).is_due(c1, y1), y1 - y0


class OutcomeCounts(NamedTuple):
    """Numbers of treated pairs, by what treating them was worth.

    Attributes
    ----------
    positive : int
        Number of treated coupon buyers.
    negative : int
        Number of treated pairs whose cost is wasted: always buyers, and coupon takers in the cash scenario.
    neutral : int
        Number of all other treated pairs.
    reward : float
        Reward ``positive - cost * negative``, in conversions.
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
    """Compute the expected reward of treating each row.

    Parameters
    ----------
    strata_probability : array_like of shape (n, 5), float
        Probabilities, columns in the order of :data:`~cfmtl_lib.strata.STRATA`, or a table with these names.
        Rows must sum to 1 within 1e-4; entries may leave [0, 1], as plug-in estimates do.
    scenario : {"coupon", "cash"}
    cost : float, or array_like of shape (n,)
        Cost c >= 0 of one incentive, when it is paid.
    conversion_value : float, or array_like of shape (n,), optional
        Value of a conversion before the incentive is paid, in the units of ``cost``. The default is
        1 + cost, as in the paper: the unit then is one conversion net of its incentive. Give it in money, or
        where several incentives have different costs.

    Returns
    -------
    ndarray of shape (n,), float64
        Rewards in conversions a row, or in the units of ``conversion_value``.

    Raises
    ------
    InputError
        If the shape is wrong, a value is not finite, a row does not sum to 1, or scenario, cost or value is
        bad.

    Examples
    --------
    >>> p = [[0.1, 0.1, 0.2, 0.5, 0.1]]
    >>> expected_reward(p, scenario="coupon", cost=0.4).round(6).tolist()
    [0.46]
    >>> expected_reward(p, scenario="coupon", cost=4.0, conversion_value=14.0).round(6).tolist()  # in euros
    [4.6]
    """
    p = check_strata_probability(strata_probability)
    if is_one_number(cost) and conversion_value is None:
        weights = stratum_rewards(scenario, cost)  # type: ignore[arg-type]
        return p @ weights
    index = index_of(strata_probability)
    costs = check_costs(cost, len(p), index=index)
    value = values_of_conversion(costs, conversion_value, len(p), index)
    return value * p[:, COUPON_BUYER] - expected_spend(p, scenario, costs)


def expected_spend(
    strata_probability: ArrayLike, scenario: str, cost: float | ArrayLike
) -> NDArray[np.float64]:
    """Compute the expected payment of treating each row.

    A coupon is paid when it is used in a purchase, cash when it is collected.

    Parameters
    ----------
    strata_probability, scenario, cost
        As in :func:`expected_reward`.

    Returns
    -------
    ndarray of shape (n,), float64
        Payments in the units of ``cost``.

    Raises
    ------
    InputError
        If an argument is bad, as in :func:`expected_reward`.

    Examples
    --------
    >>> expected_spend([[0.1, 0.1, 0.2, 0.5, 0.1]], scenario="coupon", cost=[0.5]).round(6).tolist()
    [0.3]
    """
    p = check_strata_probability(strata_probability)
    paid, _ = _paid_and_gained(scenario)
    return check_costs(cost, len(p), index=index_of(strata_probability)) * p[:, paid > 0].sum(axis=1)


def count_outcomes(treat: ArrayLike, stratum: ArrayLike, scenario: str, cost: float) -> OutcomeCounts:
    """Count treated pairs by the worth of treating them, where strata are known (columns of Table 4).

    Parameters
    ----------
    treat : array_like of shape (n,), bool
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
        If shapes differ, ``treat`` is not boolean, or a stratum is no index 0-4.

    Examples
    --------
    >>> count_outcomes([True, True, True, False], [3, 4, 2, 3], scenario="cash", cost=0.4)
    OutcomeCounts(positive=1, negative=2, neutral=0, reward=0.2)
    """
    true_stratum = check_strata(stratum)
    probability = check_policy(treat, len(true_stratum), index_of(stratum))
    refuse_rows("treat", (probability > 0) & (probability < 1), expected="True/False", found=probability)
    treated = probability == 1
    rewards = stratum_rewards(scenario, cost)
    counts = np.bincount(true_stratum[treated], minlength=len(STRATA))
    paid, gained = _paid_and_gained(scenario)
    positive, negative = int(counts @ gained), int(counts @ (paid * (1 - gained)))
    return OutcomeCounts(
        positive=positive,
        negative=negative,
        neutral=int(counts.sum()) - positive - negative,
        reward=round(float(counts @ rewards), 6),
    )
