r"""Lower bound of the value of a policy that holds at any sample size.

The paper announces a lower bound of the reward of the learnt policy. The reproduction report mentions it but
does not print it, so its constants cannot be recovered from what this project has. The bound here is our
own. Let :math:`\psi_i` be the doubly robust scores of K policies on n units, with the *known* propensity.
Nuisances and policies have not seen these units. The scores are independent and identically distributed, and
unbiased for the value whatever the outcome means are. They lie in an interval whose length B follows from the
least propensity. We use the empirical Bernstein inequality (Maurer and Pontil, 2009, Theorem 4) and a union
bound. With probability at least :math:`1 - \delta`, for all K policies at once,

.. math::
    V \;\ge\; \bar\psi - \sqrt{\frac{2 S^2 \ln(2K/\delta)}{n}} - \frac{7 B \ln(2K/\delta)}{3 (n-1)},

with :math:`S^2` the sample variance of the scores. With estimated propensities no such statement holds: their
error enters the mean, and no sample bounds it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cfmtl_lib.checks import check_count, check_level, check_number, describe, real_number
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.row_arguments import labels_by_row
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.policy.arguments import check_costs, check_policy
from cfmtl_lib.policy.rewards import payment_of, values_of_conversion
from cfmtl_lib.value.scores import check_nuisances, net_means, net_outcome


class RewardBound(NamedTuple):
    """Lower bound of the value of a policy, in net conversions a unit, or in those of ``conversion_value``.

    Attributes
    ----------
    bound : float
        Lower bound: ``estimate - spread - range_term``.
    estimate : float
        Mean of the scores.
    spread, range_term : float
        Second and third term of the bound.
    score_range : float
        Length B of the interval that the scores must lie in.
    """

    bound: float
    estimate: float
    spread: float
    range_term: float
    score_range: float


def reward_lower_bound(
    treat: ArrayLike,
    log: IncentiveLog,
    nuisances: LogNuisances,
    *,
    least_propensity: float,
    scenario: str = "coupon",
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
    outcome_range: tuple[float, float] | None = None,
    confidence: float = 0.95,
    n_policies: int = 1,
) -> RewardBound:
    """Bound the value of a policy from below at any sample size, where the propensity is known.

    Parameters
    ----------
    treat : array_like of shape (n,), bool or in [0, 1]
        Policy that has not seen this log.
    log : IncentiveLog
        Log of independent units; one with clusters of several rows is refused.
    nuisances : LogNuisances
        Nuisances with the known propensity, and means from other data. If the means are wrong, the bound
        still holds, and is looser.
    least_propensity : float in (0, 0.5]
        Least probability of either arm at any x, by design.
    scenario : {"coupon", "cash"}
    cost, conversion_value
        As in :func:`~cfmtl_lib.value.estimates.policy_value`. With one for each row, the range of the scores
        is that of the row where it is largest.
    outcome_range : (float, float), optional
        Least and largest amount that is possible, for a log with an outcome in money.
    confidence : float
        Probability with which the bound holds.
    n_policies : int
        Number of policies bounded at once, e.g. those among which this one was chosen on this log.

    Returns
    -------
    RewardBound

    Raises
    ------
    InputError
        If the log has clusters, the propensity is estimated or falls below ``least_propensity``, or a
        parameter is out of range.

    Examples
    --------
    >>> from cfmtl_lib import simulated_features
    >>> study = simulated_features(20_000, seed=1)
    >>> treat = study.strata_probability[:, 3] > 0.15
    >>> bound = reward_lower_bound(
    ...     treat, study.log, study.true_nuisances, cost=0.4, least_propensity=0.18
    ... )
    >>> bound.bound < study.true_value(treat, "coupon", 0.4)
    True
    """
    check_nuisances(nuisances, log)
    if not nuisances.propensity_is_known:
        raise InputError(
            "nuisances",
            expected="known propensities",
            found="estimated ones",
            advice="No finite-sample bound covers the error of a fitted propensity; see confounding_bound.",
        )
    if log.cluster is not None and len(labels_by_row("cluster", log.cluster, len(log))[0]) < len(log):
        raise InputError(
            "log",
            expected="independent units",
            found="clusters of several rows",
            advice="The bound needs independent rows: aggregate clusters, or take one row of each.",
        )
    least_propensity = check_number(least_propensity, "least_propensity", low=0, high=0.5, low_open=True)
    confidence = check_level(confidence, "confidence")
    n_policies = check_count(n_policies, "n_policies")
    if len(log) < 2:
        raise InputError("log", expected="at least two units", found="one")
    e = nuisances.propensity
    least = float(np.minimum(e, 1 - e).min())
    if least < least_propensity - 1e-12:
        raise InputError(
            "least_propensity",
            expected=f"at most {least:g}, the least in the log",
            found=f"{least_propensity}",
        )
    policy = check_policy(treat, len(log), log.index)
    g1, g0 = net_means(log, nuisances, scenario, cost, conversion_value)
    costs = check_costs(cost, len(log), index=log.index)
    # Possible values of the net outcome in each arm; means outside them only widen the range.
    if log.outcome is not None and conversion_value is None:
        low0, high0 = _range_of_outcome(log, outcome_range)
        low1, high1 = low0 - float(np.max(costs)), high0
    else:
        value = values_of_conversion(costs, conversion_value, len(log), log.index)
        paid = payment_of(scenario).is_due
        possible = [np.asarray(value * y - costs * paid(c, y)) for c in (0, 1) for y in (0, 1)]
        low1, high1 = (float(end([end(values) for values in possible])) for end in (np.min, np.max))
        low0, high0 = 0.0, float(np.max(value))
    g1, g0 = np.clip(g1, low1, high1), np.clip(g0, low0, high0)
    w = net_outcome(log, scenario, cost, conversion_value)
    score = policy * (g1 - g0 + np.where(log.t == 1, (w - g1) / e, -(w - g0) / (1 - e)))
    a = 1 / least_propensity
    tops = (a * high1 - (a - 1) * low1 - low0, high1 + (a - 1) * high0 - a * low0)
    bottoms = (a * low1 - (a - 1) * high1 - high0, low1 + (a - 1) * low0 - a * high0)
    score_range = max(*tops, 0.0) - min(*bottoms, 0.0)
    n = len(score)
    log_term = float(np.log(2 * n_policies / (1 - confidence)))
    spread = float(np.sqrt(2 * score.var(ddof=1) * log_term / n))
    range_term = 7 * score_range * log_term / (3 * (n - 1))
    estimate = float(score.mean())
    return RewardBound(estimate - spread - range_term, estimate, spread, range_term, score_range)


def _range_of_outcome(log: IncentiveLog, outcome_range: tuple[float, float] | None) -> tuple[float, float]:
    """Return the range of an outcome in money, which no log can tell."""
    assert log.outcome is not None
    seen = float(log.outcome.min()), float(log.outcome.max())
    given = outcome_range if isinstance(outcome_range, tuple | list) else ()
    ends = [real_number(end) for end in given]
    if len(ends) != 2 or not ends[0] <= seen[0] <= seen[1] <= ends[1]:
        raise InputError(
            "outcome_range",
            expected=f"(least, largest) possible amount, around those seen, {seen[0]:g} to {seen[1]:g}",
            found=describe(outcome_range),
            advice="The bound needs outcomes of known range, such as amounts up to a limit of the basket.",
        )
    return ends[0], ends[1]
