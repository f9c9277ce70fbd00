r"""Bounds on the value of a policy under unmeasured confounding of a given strength.

The value is :math:`\theta = E[\pi(X)(g(1,X) - g(0,X))]` with g the mean of the net outcome W of
:func:`~cfmtl_lib.value.scores.net_outcome`. Hence :math:`\theta = E[\alpha W]` with the Riesz representer
:math:`\alpha = \pi(X)\,(T/e - (1-T)/(1-e))`. If confounders were left out, the error of the estimate obeys

.. math::
    |\theta_{\text{short}} - \theta|^2 \le \rho^2\, \sigma^2 \nu^2\, C_Y^2 C_D^2, \qquad
    C_Y^2 = r_Y, \quad C_D^2 = \frac{r_D}{1 - r_D},

Here :math:`\sigma^2` is the residual variance of W, and :math:`\nu^2 = E[\alpha^2]`. :math:`r_Y` is the share
of the residual variance of W that the confounders explain. :math:`r_D` is the share of the variance of the
true representer that they add (:math:`1 - E[\alpha_{\text{short}}^2] / E[\alpha^2]`). See Chernozhukov,
Cinelli, Newey, Sharma and Syrgkanis (2022), "Long story short: omitted variable bias in causal machine
learning".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from cfmtl_lib.checks import check_level, check_number
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.row_arguments import check_log
from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.policy.arguments import check_policy
from cfmtl_lib.value.calibration import tell_of_scores
from cfmtl_lib.value.estimates import Estimate, about_money, mean_estimate
from cfmtl_lib.value.scores import net_means, net_outcome, unit_scores

_STRONGEST = 1 - 1e-6


@dataclass(frozen=True)
class ConfoundingBound:
    """Values of a policy that confounding of a given strength allows.

    Attributes
    ----------
    estimate : Estimate
        Policy value without confounding, with its cautions.
    lower, upper : float
        Ends of the possible policy values under confounding, in the unit of the estimate.
    lower_limit, upper_limit : float
        One-sided confidence limits of ``lower`` and of ``upper``, each at ``level``.
    robustness_value : float
        Least strength :math:`r_Y = r_D` at which the value could be 0 (with rho as given).
    robustness_value_limit : float
        Least strength at which the confidence limit reaches 0; 0 if it does without confounding.
    level : float
        Confidence level.
    """

    estimate: Estimate
    lower: float
    upper: float
    lower_limit: float
    upper_limit: float
    robustness_value: float
    robustness_value_limit: float
    level: float


def confounding_bound(
    treat: ArrayLike,
    log: IncentiveLog,
    nuisances: LogNuisances | None = None,
    *,
    outcome_strength: float,
    treatment_strength: float,
    rho: float = 1.0,
    scenario: str = "coupon",
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    clip: float | None = None,
) -> ConfoundingBound:
    """Bound the value of a policy under unmeasured confounding of a given strength.

    Parameters
    ----------
    treat : array_like of shape (n,), bool or in [0, 1]
        Policy: probability of treating each row.
    log, nuisances, scenario, cost, conversion_value, clusters, level, clip
        As in :func:`~cfmtl_lib.value.estimates.policy_value`.
    outcome_strength : float in [0, 1]
        Share :math:`r_Y` of the residual variance of the net outcome that confounders explain.
    treatment_strength : float in [0, 1)
        Share :math:`r_D` of the variance of the representer that they add.
    rho : float in [-1, 1]
        Correlation of the two; 1 is the worst case.

    Returns
    -------
    ConfoundingBound

    Raises
    ------
    InputError
        If a strength is out of range, or :func:`~cfmtl_lib.value.estimates.policy_value` raises it.

    Examples
    --------
    >>> from cfmtl_lib import simulated_features
    >>> study = simulated_features(4000, seed=1)
    >>> treat = study.strata_probability[:, 3] > 0.15
    >>> bound = confounding_bound(
    ...     treat, study.log, study.true_nuisances, cost=0.4, outcome_strength=0.02, treatment_strength=0.02
    ... )
    >>> bound.lower < bound.estimate.value < bound.upper
    True
    """
    outcome_strength = check_number(outcome_strength, "outcome_strength", low=0, high=1)
    treatment_strength = check_number(treatment_strength, "treatment_strength", low=0, high=1, high_open=True)
    rho, level = check_number(rho, "rho", low=-1, high=1), check_level(level)
    policy = check_policy(treat, len(check_log(log)), log.index)
    labels = log.clusters(clusters)
    nuisances = crossfit(log) if nuisances is None else nuisances
    scores = unit_scores(log, nuisances, clip=clip)
    e, treated = scores.propensity, scores.treated
    g1, g0 = net_means(log, nuisances, scenario, cost, conversion_value)
    residual = net_outcome(log, scenario, cost, conversion_value) - np.where(treated, g1, g0)
    representer = policy * np.where(treated, 1 / e, -1 / (1 - e))
    effect = policy * (g1 - g0) + representer * residual
    variance = np.square(residual)
    # 2 E[m(alpha)] - E[alpha^2] has the same mean as E[alpha^2] and is orthogonal to errors of e.
    squared_representer = 2 * np.square(policy) * (1 / e + 1 / (1 - e)) - np.square(representer)
    sigma2, nu2 = float(variance.mean()), float(squared_representer.mean())
    estimate = mean_estimate(effect, clusters=labels, level=level)
    if nu2 < 0:
        raise InputError(
            "nuisances",
            expected="a propensity whose weights balance the arms",
            found=f"an estimated mean square of the representer of {nu2:.3g}",
            advice="The propensity contradicts the log: see overlap and propensity_calibration.",
        )
    told = tell_of_scores("confounding_bound", log, nuisances, scores, policy, labels, treat)
    estimate = replace(estimate, cautions=told, **about_money(log, conversion_value))
    scale = float(np.sqrt(sigma2 * nu2))
    by_unit = (sigma2 * squared_representer + nu2 * variance) / (2 * scale) if scale else np.zeros(len(log))
    quantile = float(stats.norm.ppf(level))

    def ends(r_y: float, r_d: float) -> tuple[float, float, float, float]:
        factor = abs(rho) * np.sqrt(r_y * r_d / (1 - r_d))
        low, high = (
            mean_estimate(effect + sign * factor * by_unit, clusters=labels, level=level) for sign in (-1, 1)
        )
        return (
            low.value,
            high.value,
            low.value - quantile * low.standard_error,
            high.value + quantile * high.standard_error,
        )

    nearest = 2 if estimate.value > 0 else 3  # the limit that confounding moves towards 0

    def limit_at(r: float) -> float:
        return ends(r, r)[nearest]

    if estimate.value == 0:
        ratio = 0.0
    else:
        ratio = (estimate.value / (abs(rho) * scale)) ** 2 if rho and scale else np.inf
    lower, upper, lower_limit, upper_limit = ends(outcome_strength, treatment_strength)
    return ConfoundingBound(
        estimate,
        lower,
        upper,
        lower_limit,
        upper_limit,
        # |theta| = |rho| S r / sqrt(1 - r), solved for r
        float(2 / (1 + np.sqrt(1 + 4 / ratio))) if ratio > 0 else 0.0,
        0.0 if limit_at(0.0) * estimate.value <= 0 else _first_zero(limit_at),
        level,
    )


def _first_zero(limit_at: Callable[[float], float]) -> float:
    """Find the strength at which a confidence limit reaches 0; 1 if it never does."""
    if limit_at(0.0) * limit_at(_STRONGEST) > 0:
        return 1.0
    return float(optimize.brentq(limit_at, 0.0, _STRONGEST, xtol=1e-6))
