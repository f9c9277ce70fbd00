"""Simulated log of feature rows from a population small enough to be summed over exactly."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax

from cfmtl_lib.checks import check_count, check_seed
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.moments import MOMENTS, LogNuisances
from cfmtl_lib.policy.arguments import check_policy
from cfmtl_lib.policy.rewards import expected_reward
from cfmtl_lib.strata import POTENTIAL_OUTCOMES, draw_strata, observe

N_FEATURES = 5

POINTS = np.array(list(product((0.0, 1.0), repeat=N_FEATURES)))
"""Values of x, 32 in number and all equally likely; shape (32, 5)."""

_STRATA_INTERCEPTS = np.array([0.3, -0.4, 0.0, -0.2, -0.1])
_STRATA_SLOPES = np.array(
    [
        [0.0, -0.6, 0.2, 0.9, -0.3],
        [0.0, 0.5, 0.0, -0.7, 0.8],
        [0.0, 0.0, 0.6, 0.4, 0.3],
        [0.0, 0.4, -0.5, 0.0, 0.5],
        [0.0, 0.2, 0.3, -0.4, 0.0],
    ]
)
_PROPENSITY_INTERCEPT = -0.6
_PROPENSITY_SLOPES = np.array([0.8, 0.7, -0.5, 0.6, 0.0])


@dataclass(frozen=True, eq=False)
class FeatureStudy:
    """Log of features with the truth behind it.

    Attributes
    ----------
    log : IncentiveLog
        x of shape (n, 5), each 0.0 or 1.0.
    stratum : ndarray of shape (n,), int8
    strata_probability : ndarray of shape (n, 5), float64
        P(stratum | x) of each row.
    point : ndarray of shape (n,), int64
        Index into :data:`POINTS` of each row.
    """

    log: IncentiveLog
    stratum: NDArray[np.int8]
    strata_probability: NDArray[np.float64]
    point: NDArray[np.int64]

    @property
    def true_nuisances(self) -> LogNuisances:
        """True propensity and conditional means at the rows of the log."""
        assert self.log.propensity is not None
        means = means_of(self.strata_probability)
        return LogNuisances.from_means(self.log.propensity, means, propensity_is_known=True)

    def true_value(
        self, treat: ArrayLike, scenario: str, cost: float, conversion_value: float | None = None
    ) -> float:
        """Compute the expected reward per unit of a policy that depends on x only, over all x.

        Parameters
        ----------
        treat : array_like of shape (n,), bool or in [0, 1]
            Treatment of each row, the same for rows of the same x.
        scenario : {"coupon", "cash"}
        cost, conversion_value : float
            See :func:`~cfmtl_lib.policy.rewards.expected_reward`.

        Raises
        ------
        InputError
            If rows of one x are treated differently, or a point of x is missing from the log.
        """
        policy = check_policy(treat, len(self.point))
        of_point = np.full(len(POINTS), np.nan)
        of_point[self.point] = policy
        if not np.array_equal(of_point[self.point], policy):
            raise InputError("treat", expected="one value for each x", found="rows of one x that differ")
        if np.isnan(of_point).any():
            raise InputError("log", expected=f"all {len(POINTS)} values of x", found="some missing")
        reward = expected_reward(strata_probabilities(), scenario, cost, conversion_value)
        return float(np.mean(of_point * reward))


def strata_probabilities() -> NDArray[np.float64]:
    """Return P(stratum | x) at each of :data:`POINTS`, shape (32, 5): see :func:`simulated_features`."""
    return softmax(_STRATA_INTERCEPTS + POINTS @ _STRATA_SLOPES, axis=1)


def propensities() -> NDArray[np.float64]:
    """Return P(T=1 | x) at each of :data:`POINTS`, shape (32,): see :func:`simulated_features`."""
    return expit(_PROPENSITY_INTERCEPT + POINTS @ _PROPENSITY_SLOPES)


def means_of(strata_probability: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute the four conditional means, each (n,), that strata probabilities of shape (n, 5) imply."""
    _, c1, y0, y1 = POTENTIAL_OUTCOMES.T
    return {
        name: strata_probability @ (moment.outcome(c1, y1) if moment.arm else moment.outcome(0 * c1, y0))
        for name, moment in MOMENTS.items()
    }


def simulated_features(n: int = 5000, seed: int = 0) -> FeatureStudy:
    r"""Draw a confounded log of n rows with five binary features.

    x is uniform on :math:`\{0, 1\}^5`; strata follow a multinomial logit and treatment a logit of x,

    .. math::
        P(\text{stratum } s \mid x) \propto \exp(a_s + b_s^\top x), \qquad e(x) = \sigma(-0.6 + g^\top x),

    so that every population value is a sum over 32 points, without simulation error. Treatment is
    confounded: means of the two arms of the log differ by more than the share of coupon buyers.

    Parameters
    ----------
    n : int
        Rows, at least 100.
    seed : int

    Returns
    -------
    FeatureStudy

    Raises
    ------
    InputError
        If n is too small.

    Examples
    --------
    >>> study = simulated_features(2000, seed=3)
    >>> study.log
    IncentiveLog(2,000 rows of 5 features: 1,043 treated, 679 collected, 1,002 converted)
    """
    n = check_count(n, "n", least=100)
    rng = np.random.default_rng(check_seed(seed))
    point = rng.integers(0, len(POINTS), n)
    p = strata_probabilities()[point]
    stratum = draw_strata(p, rng)
    e = propensities()[point]
    treated = (rng.random(n) < e).astype(np.int8)
    collected, converted = observe(stratum, treated)
    log = IncentiveLog(POINTS[point], treated, collected, converted, propensity=e)
    return FeatureStudy(log, stratum, p, point)
