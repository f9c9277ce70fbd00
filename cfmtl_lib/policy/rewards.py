r"""From strata probabilities to a budgeted policy, and what that policy earns where strata are known.

The reward of treating a pair is linear in its strata probabilities
(:func:`~cfmtl_lib.strata.stratum_rewards`), so the best policy under a budget treats the pairs of
highest positive expected reward (KDD 2023 paper, Section 3.3).
"""

from __future__ import annotations

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


def _refuse_first(subject: str, wrong: ArrayLike, expected: str, found: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        raise InputError(subject, expected=expected, found=found, row=int(rows[0]))


def check_policy(treat: ArrayLike, n: int) -> NDArray[np.float64]:
    """A policy as probabilities of shape (n,), or an :class:`InputError` naming the first bad row."""
    policy = np.asarray(treat)
    if policy.shape != (n,):
        raise InputError(
            "treat", expected=f"shape ({n},), one value a row of the log", found=f"{policy.shape}"
        )
    if policy.dtype.kind not in "biuf":
        raise InputError("treat", expected="True/False or numbers in [0, 1]", found=f"dtype {policy.dtype}")
    policy = policy.astype(np.float64)
    wrong = np.flatnonzero(~((policy >= 0) & (policy <= 1)))
    if wrong.size:
        raise InputError(
            "treat",
            expected="True/False or probabilities in [0, 1]",
            found=str(policy[wrong[0]]),
            row=int(wrong[0]),
            advice="Turn scores into a policy with cfmtl_lib.allocate.",
        )
    return policy
