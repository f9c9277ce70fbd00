r"""Doubly robust (AIPW) scores of the reward of treating each logged row.

The reward of treating a unit of any of the five strata is the same function of its potential outcomes:

.. math::
    r_{\text{coupon}} &= (1+c)\,(Y(1)-Y(0)) - c\,C(1)Y(1), \\
    r_{\text{cash}} &= (1+c)\,(Y(1)-Y(0)) - c\,C(1) .

Its mean over any group of units needs four means, each of an outcome in one arm. For each of them the
augmented inverse-propensity (AIPW) score of Robins, Rotnitzky and Zhao (1994) is

.. math::
    G_1[Z] = m_1(x) + \frac{T}{e(x)}\,(Z - m_1(x)), \qquad
    G_0[Z] = m_0(x) + \frac{1-T}{1-e(x)}\,(Z - m_0(x)),

whose mean given x is E[Z(t) | x] if the propensity e *or* the regression m is right. No stratum needs to be
observed. The reward needs unconfoundedness and overlap, but neither exclusion nor monotonicity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.checks import check_number, describe
from cfmtl_lib.errors import InputError, check_choice, refuse_rows
from cfmtl_lib.logs.alignment import row_order
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.row_arguments import check_log
from cfmtl_lib.nuisances.amounts import amount_means, doubly_robust_amounts
from cfmtl_lib.nuisances.moments import CLIP_OF_ESTIMATES, MOMENTS, LogNuisances
from cfmtl_lib.policy.arguments import check_costs
from cfmtl_lib.policy.rewards import payment_of, reward_of_means, values_of_conversion
from cfmtl_lib.strata import strata_from_moments


@dataclass(frozen=True, eq=False)
class UnitScores:
    """AIPW scores of the rows of a log.

    Attributes
    ----------
    moments : ndarray of shape (n, 4), float64
        Scores G1[Y], G0[Y], G1[C] and G1[CY].
    propensity : ndarray of shape (n,), float64
        Propensity after clipping.
    treated : ndarray of shape (n,), bool
        True for treated rows.
    n_clipped : int
        Number of rows whose propensity was moved to the bound.
    index : pandas.Index, optional
        Labels of the rows, which a Series of costs has to match.
    amounts : ndarray of shape (n, 2), float64, optional
        Scores G1[M] and G0[M] of the outcome in money, if the log has one.
    """

    moments: NDArray[np.float64]
    propensity: NDArray[np.float64]
    treated: NDArray[np.bool_]
    n_clipped: int
    index: pd.Index | None = None
    amounts: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.propensity)

    def strata(self) -> NDArray[np.float64]:
        """Compute scores of the five strata probabilities; rows sum to 1; shape (n, 5)."""
        return strata_from_moments(*self.moments.T)

    def reward(
        self,
        scenario: str,
        cost: float | ArrayLike,
        conversion_value: float | ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Compute scores of the reward of treating each row; shape (n,).

        See :func:`~cfmtl_lib.policy.rewards.expected_reward` for cost and value of a conversion. Without such
        a value, the reward of a log with an outcome in money is the effect on it, minus the payments.
        """
        by_name = self.by_moment()
        paid = by_name[payment_of(scenario).moment]
        if self.amounts is not None and conversion_value is None:
            return self.amounts[:, 0] - self.amounts[:, 1] - self.spend(scenario, cost)
        return reward_of_means(
            by_name["converted_treated"],
            by_name["converted_untreated"],
            paid,
            cost,
            conversion_value,
            self.index,
        )

    def spend(self, scenario: str, cost: float | ArrayLike) -> NDArray[np.float64]:
        """Compute scores of the payment of treating each row, in the units of the cost; shape (n,)."""
        return check_costs(cost, len(self), index=self.index) * self.by_moment()[payment_of(scenario).moment]

    def by_moment(self) -> dict[str, NDArray[np.float64]]:
        """Return the columns of ``moments`` by name, each of shape (n,)."""
        return dict(zip(MOMENTS, self.moments.T, strict=True))


def unit_scores(log: IncentiveLog, nuisances: LogNuisances, *, clip: float | None = None) -> UnitScores:
    """Compute AIPW scores of four means for each row of a log.

    Parameters
    ----------
    log : IncentiveLog
    nuisances : LogNuisances
        Nuisances at the rows of the log.
    clip : float, optional
        Bound of the propensities, which are moved into [clip, 1 - clip]: less variance for some bias. The
        default is 0.01 for estimated propensities and 0 for known ones. ``n_clipped`` of the result counts
        the rows.

    Returns
    -------
    UnitScores

    Raises
    ------
    InputError
        If log and nuisances differ in length, clip lies outside [0, 0.5), or a propensity is 0 or 1.

    Examples
    --------
    >>> log = IncentiveLog(x=[[0.0], [0.0]], t=[1, 0], c=[1, 0], y=[1, 0])
    >>> half = [0.5, 0.5]
    >>> known = LogNuisances(half, half, half, half, [0.25, 0.25], propensity_is_known=True)
    >>> scores = unit_scores(log, known)
    >>> scores.moments.tolist()
    [[1.5, 0.5, 1.5, 1.75], [0.5, -0.5, 0.5, 0.25]]
    >>> scores.strata()[0].round(2).tolist()
    [-0.25, -0.25, -0.25, 1.0, 0.75]
    """
    clip = checked_clip(log, nuisances, clip)
    e = np.clip(nuisances.propensity, clip, 1 - clip)
    refuse_rows(
        "propensity",
        (e == 0) | (e == 1),
        expected="values strictly between 0 and 1 (overlap)",
        found=e,
    )
    means = nuisances.means()
    moments = np.stack(
        [moment.doubly_robust(log, means[name], e) for name, moment in MOMENTS.items()], axis=1
    )
    n_clipped = int((e != nuisances.propensity).sum())
    amounts = None if log.outcome is None else doubly_robust_amounts(log, nuisances, e)
    return UnitScores(moments, e, log.t == 1, n_clipped, log.index, amounts)


def fitted_scores(log: IncentiveLog, nuisances: LogNuisances) -> UnitScores:
    """Return the fitted means in place of scores: what the rows would score without their outcomes."""
    means = np.stack([nuisances.means()[name] for name in MOMENTS], axis=1)
    amounts = None if log.outcome is None else amount_means(log, nuisances)
    return UnitScores(means, nuisances.propensity, log.t == 1, 0, log.index, amounts)


def checked_clip(log: IncentiveLog, nuisances: LogNuisances, clip: float | None) -> float:
    """Return the bound of clipping, or its default; check that log and nuisances have the same rows.

    Raises
    ------
    InputError
        If log and nuisances differ in length, or clip lies outside [0, 0.5).
    """
    check_nuisances(nuisances, log)
    if clip is None:
        clip = 0.0 if nuisances.propensity_is_known else CLIP_OF_ESTIMATES
    return check_number(clip, "clip", low=0, high=0.5, high_open=True)


def check_nuisances(nuisances: LogNuisances, log: IncentiveLog) -> None:
    """Check that nuisances and log have the same rows, in the same order where both have labels.

    Raises
    ------
    InputError
        If they differ, or are no nuisances and no log.
    """
    check_log(log)
    if not isinstance(nuisances, LogNuisances):
        raise InputError(
            "nuisances",
            expected="LogNuisances",
            found=describe(nuisances),
            advice="cfmtl_lib.crossfit fits them; LogNuisances holds values from elsewhere.",
        )
    if len(log) != len(nuisances):
        raise InputError("nuisances", expected=f"{len(log)} rows, as the log", found=f"{len(nuisances)} rows")
    if (
        nuisances.index is not None
        and row_order("nuisances", nuisances.index, log.index, len(log)) is not None
    ):
        raise InputError(
            "nuisances",
            expected="rows in the order of the log",
            found="their labels in another order",
            advice="Make them of Series with .reindex(log.index).",
        )


def net_outcome(
    log: IncentiveLog,
    scenario: str,
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
) -> NDArray[np.float64]:
    r"""Compute the net outcome W, whose uplift is the reward; shape (n,).

    With the value v of a conversion, 1 + c unless given, it is :math:`v\,Y - c\,CY` for coupons and
    :math:`v\,Y - c\,C` for cash. An outcome in money takes the place of :math:`v\,Y`. Since C = 0 where
    T = 0, :math:`W(1) - W(0)` is the reward of treating the unit. Any estimator of an average treatment
    effect estimates a reward when given W.
    """
    paid = MOMENTS[payment_of(scenario).moment].observed(log)
    costs = check_costs(cost, len(log), index=log.index)
    if log.outcome is not None and conversion_value is None:
        return log.outcome - costs * paid
    return values_of_conversion(costs, conversion_value, len(log), log.index) * log.y - costs * paid


def net_means(
    log: IncentiveLog,
    nuisances: LogNuisances,
    scenario: str,
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute E[W | T=1, x] and E[W | T=0, x] of :func:`net_outcome`; each of shape (n,)."""
    paid, n = nuisances.means()[payment_of(scenario).moment], len(log)
    costs = check_costs(cost, n, index=log.index)
    if log.outcome is not None and conversion_value is None:
        treated, untreated = amount_means(log, nuisances).T
        return treated - costs * paid, untreated
    value = values_of_conversion(costs, conversion_value, n, log.index)
    return value * nuisances.converted_treated - costs * paid, value * nuisances.converted_untreated


POPULATIONS = ("all", "overlap", "trimmed")
"""Populations whose mean is estimated: all units, overlap-weighted units, units of moderate propensity."""


@dataclass(frozen=True, eq=False)
class Population:
    r"""Units that an estimate is about, as weights of the rows.

    The estimate is :math:`\sum_i (h_i s_i + d_i m_i) / \sum_i (h_i + d_i)`. Here s is the doubly robust score
    of the row and m its conditional mean. The term d makes the estimate robust to errors of the propensity
    in the weights. For overlap weights (Li, Morgan and Zaslavsky, 2018) d = h'(e)(T - e), else it is 0.

    Attributes
    ----------
    name : str
        Description; "all" for all units.
    weight, correction : ndarray of shape (n,), float64
        h and d of each row.
    """

    name: str
    weight: NDArray[np.float64]
    correction: NDArray[np.float64]

    def linearised(self, scores: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return one number for each row, whose mean is the estimate and whose spread gives its error."""
        if self.name == "all":
            return scores
        numerator = self.weight * scores + self.correction * means
        denominator = self.weight + self.correction
        value = float(numerator.sum() / denominator.sum())
        return value + (numerator - value * denominator) / denominator.mean()


def population_of(name: str, log: IncentiveLog, nuisances: LogNuisances) -> Population:
    """Make the weights of a population.

    Parameters
    ----------
    name : {"all", "overlap", "trimmed"}
        "overlap" weighs each unit by e(1 - e), "trimmed" leaves out units of extreme propensity
        (:func:`crump_bound`).
    log : IncentiveLog
    nuisances : LogNuisances

    Raises
    ------
    UnknownNameError
        If the name is unknown.
    InputError
        If no unit is left.
    """
    check_choice("population", name, POPULATIONS)
    e, nothing = nuisances.propensity, np.zeros(len(log))
    if name == "all":
        return Population("all", np.ones(len(log)), nothing)
    if name == "overlap":
        weight = e * (1 - e)
        correction = nothing if nuisances.propensity_is_known else (1 - 2 * e) * (log.t - e)
        description = "units weighted by overlap, e(1 - e)"
    else:
        bound = crump_bound(e)
        weight, correction = ((e >= bound) & (e <= 1 - bound)).astype(np.float64), nothing
        description = f"units of propensity {bound:.2f} to {1 - bound:.2f} ({weight.mean():.0%} of the log)"
    if not weight.any():
        raise InputError(
            "population",
            expected="units with a propensity inside (0, 1)",
            found="none",
            advice="Every unit was certain to be treated or not: this log cannot tell an effect.",
        )
    return Population(description, weight, correction)


def crump_bound(propensity: NDArray[np.float64]) -> float:
    """Return the bound of propensities for which the average effect of the units within varies least.

    The bound a solves ``1 / (a (1 - a)) = 2 E[1 / (e (1 - e)) | a <= e <= 1 - a]``. It is 0 where no unit
    needs to be left out. See Crump, Hotz, Imbens and Mitnik (2009), "Dealing with limited overlap".

    Examples
    --------
    >>> crump_bound(np.full(10, 0.3))
    0.0
    >>> round(crump_bound(np.linspace(0.001, 0.999, 999)), 2)
    0.1
    """
    with np.errstate(divide="ignore"):
        g = np.sort(1 / (propensity * (1 - propensity)))
    g = g[np.isfinite(g)]
    if not len(g):
        return 0.5
    means = np.cumsum(g) / np.arange(1, len(g) + 1)
    if g[-1] <= 2 * means[-1]:
        return 0.0
    limit = 2 * float(means[g <= 2 * means][-1])
    return 0.5 - float(np.sqrt(max(0.0, 0.25 - 1 / limit)))
