r"""Estimates, with standard errors, of policy values, of their differences and of strata shares.

The value of a policy :math:`\pi(x) \in [0, 1]` against treating nobody is
:math:`E[\pi(X)\, r]`, with r the reward of treating a unit. Its estimate is the mean of :math:`\pi(x_i)`
times the doubly robust score of unit i (:mod:`cfmtl_lib.value.scores`). Its standard error is that of a mean.
The score is orthogonal to the nuisances, so that their errors do not enter to first order. See Athey and
Wager (2021), "Policy learning with observational data", and Dudik, Langford and Li (2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cfmtl_lib.checks import check_level
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.row_arguments import check_log, labels_by_row
from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.policy.arguments import check_policy
from cfmtl_lib.policy.rewards import OUTCOME, unit_of
from cfmtl_lib.runtime.registry import storable
from cfmtl_lib.strata import STRATA
from cfmtl_lib.value.calibration import effective_sample_sizes, tell_of_scores
from cfmtl_lib.value.scores import fitted_scores, population_of, unit_scores


@storable
@dataclass(frozen=True)
class Estimate:
    """Estimate of a mean over the units of a log, with its standard error.

    Attributes
    ----------
    value, standard_error : float
        Estimate and its standard error, in ``unit`` a row.
    lower, upper : float
        Ends of the normal interval at ``level``.
    level : float
        Confidence level.
    n : int
        Number of units.
    n_clusters : int
        Number of groups taken as independent; n without clusters.
    cautions : tuple of str
        Reasons, seen in the log, not to trust the interval. Each is in the printed line and in a
        :class:`~cfmtl_lib.errors.TrustWarning`.
    population : str
        Units that the mean is about: "all" of the log, or a description.
    unit : str
        Unit of the value, printed beside it; empty for shares and the like.
    note : str
        What was done to the outcome before, printed beside the value; empty if nothing was.
    """

    value: float
    standard_error: float
    lower: float
    upper: float
    level: float
    n: int
    n_clusters: int
    cautions: tuple[str, ...] = field(default=(), kw_only=True)
    population: str = field(default="all", kw_only=True)
    unit: str = field(default="", kw_only=True)
    note: str = field(default="", kw_only=True)

    @property
    def total(self) -> float:
        """Value summed over the units of the log, as the tables of the paper count.

        Raises
        ------
        InputError
            If the mean is not one over all units.
        """
        return self._n_of_total() * self.value

    @property
    def total_standard_error(self) -> float:
        """Standard error of :attr:`total`."""
        return self._n_of_total() * self.standard_error

    def _n_of_total(self) -> int:
        if self.population != "all":
            raise InputError(
                "total",
                expected="a mean over all units",
                found=f"one over {self.population}",
                advice='Estimate it with population="all".',
            )
        return self.n

    @property
    def z(self) -> float:
        """Value over its standard error; infinite if only the error is 0, and 0 if both are."""
        return z_score(self.value, self.standard_error)

    @property
    def p_positive(self) -> float:
        """One-sided p-value of the hypothesis that the value is not positive."""
        return float(stats.norm.sf(self.z))

    def __str__(self) -> str:
        return self._line() + self._warned()

    def _line(self) -> str:
        among = "" if self.population == "all" else f" among {self.population}"
        unit = f" {self.unit} a row" if self.unit else ""
        return (
            f"{self.value:.4f} ± {self.standard_error:.4f} [{self.lower:.4f}, {self.upper:.4f}]{unit}{among}"
        )

    def _warned(self) -> str:
        noted = f"; {self.note}" if self.note else ""
        return noted + (f"; NOT RELIABLE: {'; '.join(self.cautions)}" if self.cautions else "")


@storable
@dataclass(frozen=True)
class PolicyValue(Estimate):
    """Value of a policy, a row of the log.

    Attributes
    ----------
    share_treated : float
        Mean of the policy.
    spend : Estimate
        Payments of the policy, in the units of the cost: cost times expected payments.
    effective_sample_size : (float, float)
        Size ``(sum w)^2 / sum w^2`` for the treated and the untreated rows that the policy would treat
        (Kish, 1965). The weight w is the policy times the inverse probability of the row's arm. Do not trust
        the normal interval below some hundreds.
    n_clipped : int
        Number of rows whose propensity was moved to the bound of clipping.
    """

    share_treated: float
    spend: Estimate
    effective_sample_size: tuple[float, float]
    n_clipped: int

    def __str__(self) -> str:
        return (
            f"{self._line()}, treats {self.share_treated:.1%}, "
            f"spends {self.spend.value:.4f} ± {self.spend.standard_error:.4f}, effective sample "
            f"{self.effective_sample_size[0]:,.0f} treated, {self.effective_sample_size[1]:,.0f} untreated, "
            f"{self.n_clipped:,} propensities clipped{self._warned()}"
        )


def policy_value(
    treat: ArrayLike,
    log: IncentiveLog,
    nuisances: LogNuisances | None = None,
    *,
    scenario: str = "coupon",
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    clip: float | None = None,
    population: str = "all",
) -> PolicyValue:
    """Estimate the value of a policy on the units of a log, against treating nobody.

    Parameters
    ----------
    treat : array_like of shape (n,), bool or in [0, 1]
        Policy: probability of treating each row. It must not depend on the outcomes of this log.
    log : IncentiveLog
    nuisances : LogNuisances, optional
        Nuisances at the rows of the log. The default is
        :func:`~cfmtl_lib.nuisances.cross_fitting.crossfit` with its defaults.
    scenario : {"coupon", "cash"}
    cost : float, or array_like of shape (n,)
        Cost c >= 0 of one incentive, in units of one conversion net of it.
    conversion_value : float, or array_like of shape (n,), optional
        Value of a conversion before the incentive is paid. If given, cost and result are in its units, money
        say. See :func:`~cfmtl_lib.policy.rewards.expected_reward`.
    clusters : array_like of shape (n,), optional
        Labels of clusters: units of one cluster (a user, say) may depend on each other. Those of the log if
        left out.
    level : float
        Confidence level of the interval, in (0, 1).
    clip : float, optional
        Bound of the propensities, see :func:`~cfmtl_lib.value.scores.unit_scores`.
    population : {"all", "overlap", "trimmed"}
        Units whose mean is estimated. Where overlap is weak, "overlap" (weights e(1 - e)) or "trimmed" (units
        of moderate propensity) can be estimated and "all" cannot. The printed line names the population, and
        :attr:`~Estimate.total` is for "all" only.

    Returns
    -------
    PolicyValue

    Raises
    ------
    InputError
        If shapes differ, a probability lies outside [0, 1], or a parameter is out of range.

    Notes
    -----
    The standard error is that of the mean over a population of units like these. For the reward on exactly
    these units (a sample quantity, as in Table 4) it is too large rather than too small.

    Examples
    --------
    >>> from cfmtl_lib import simulated_features
    >>> study = simulated_features(4000, seed=1)
    >>> everyone = np.ones(4000, dtype=bool)
    >>> value = policy_value(everyone, study.log, study.true_nuisances, cost=0.4)
    >>> bool(abs(value.value - study.true_value(everyone, "coupon", 0.4)) < 3 * value.standard_error)
    True
    """
    probability = check_policy(treat, len(check_log(log)), log.index)
    labels = log.clusters(clusters)
    nuisances = crossfit(log) if nuisances is None else nuisances
    scores, among = unit_scores(log, nuisances, clip=clip), population_of(population, log, nuisances)
    fitted = fitted_scores(log, nuisances)
    reward, spend = (
        mean_estimate(
            among.linearised(probability * of_row, probability * of_mean), clusters=labels, level=level
        )
        for of_row, of_mean in (
            (
                scores.reward(scenario, cost, conversion_value),
                fitted.reward(scenario, cost, conversion_value),
            ),
            (scores.spend(scenario, cost), fitted.spend(scenario, cost)),
        )
    )
    covered = probability * among.weight
    told = tell_of_scores("policy_value", log, nuisances, scores, covered, labels, treat)
    return PolicyValue(
        **vars(reward) | {"cautions": told, "population": among.name} | about_money(log, conversion_value),
        share_treated=float(np.average(probability, weights=among.weight)),
        spend=spend,
        effective_sample_size=effective_sample_sizes(covered, scores.propensity, scores.treated),
        n_clipped=scores.n_clipped,
    )


def policy_value_difference(
    treat: ArrayLike,
    other: ArrayLike,
    log: IncentiveLog,
    nuisances: LogNuisances | None = None,
    *,
    scenario: str = "coupon",
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    clip: float | None = None,
    population: str = "all",
) -> Estimate:
    """Estimate the value of one policy minus that of another, paired on the units of a log.

    Parameters
    ----------
    treat, other : array_like of shape (n,), bool or in [0, 1]
        Policies; the value of ``treat`` minus that of ``other`` is estimated. Units that both treat alike
        cancel.
    log, nuisances, scenario, cost, conversion_value, clusters, level, clip, population
        As in :func:`policy_value`.

    Returns
    -------
    Estimate

    Raises
    ------
    InputError
        If :func:`policy_value` raises it.
    """
    n = len(check_log(log))
    more = check_policy(treat, n, log.index) - check_policy(other, n, log.index, "other")
    nuisances = crossfit(log) if nuisances is None else nuisances
    scores, among = unit_scores(log, nuisances, clip=clip), population_of(population, log, nuisances)
    of_row, of_mean = (
        more * part.reward(scenario, cost, conversion_value)
        for part in (scores, fitted_scores(log, nuisances))
    )
    labels = log.clusters(clusters)
    estimate = mean_estimate(among.linearised(of_row, of_mean), clusters=labels, level=level)
    covered = np.abs(more) * among.weight
    told = tell_of_scores("policy_value_difference", log, nuisances, scores, covered, labels, treat, other)
    about = about_money(log, conversion_value)
    return replace(estimate, cautions=told, population=among.name, **about)


def about_money(log: IncentiveLog, conversion_value: float | ArrayLike | None) -> dict[str, Any]:
    """Return the unit of a value, and what was done to the outcome in money that it is about."""
    unit = unit_of(conversion_value, log.outcome is not None)
    return {"unit": unit, "note": log.outcome_note if unit == OUTCOME else ""}


def strata_shares(
    log: IncentiveLog,
    nuisances: LogNuisances | None = None,
    *,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    clip: float | None = None,
    population: str = "all",
) -> pd.DataFrame:
    """Estimate the shares of the five strata (AIPW), under exclusion and monotonicity.

    Parameters
    ----------
    log, nuisances, clusters, level, clip, population
        As in :func:`policy_value`.

    Returns
    -------
    DataFrame
        Table with index: the strata; columns value, standard_error, lower, upper. Values sum to 1. A
        negative one is evidence against an assumption, and is not clipped. ``attrs["cautions"]`` lists
        reasons not to trust the intervals, as in :class:`Estimate`.
    """
    nuisances = crossfit(check_log(log)) if nuisances is None else nuisances
    scores, among = unit_scores(log, nuisances, clip=clip), population_of(population, log, nuisances)
    labels = log.clusters(clusters)
    by_stratum = zip(scores.strata().T, fitted_scores(log, nuisances).strata().T, strict=True)
    estimates = [
        mean_estimate(among.linearised(of_row, of_mean), clusters=labels, level=level)
        for of_row, of_mean in by_stratum
    ]
    told = tell_of_scores("strata_shares", log, nuisances, scores, among.weight, labels)
    table = shares_table(estimates)
    table.attrs["cautions"] = told
    return table


def shares_table(estimates: Sequence[Estimate]) -> pd.DataFrame:
    """Arrange estimates of the five shares as a table: value, standard_error, lower, upper by stratum."""
    columns = ["value", "standard_error", "lower", "upper"]
    return pd.DataFrame(
        [[getattr(estimate, name) for name in columns] for estimate in estimates],
        index=pd.Index(STRATA, name="stratum"),
        columns=columns,
    )


def mean_estimate(
    values: NDArray[np.float64], *, clusters: ArrayLike | None = None, level: float = 0.95
) -> Estimate:
    """Estimate the mean of values that are independent, or independent between clusters.

    The clustered variance is that of Liang and Zeger (1986) for a mean, with the factor G / (G - 1). Its
    interval takes Student's t with G - 1 degrees of freedom.

    Examples
    --------
    >>> str(mean_estimate(np.array([0.0, 1.0, 2.0, 1.0])))
    '1.0000 ± 0.4082 [0.1998, 1.8002]'
    >>> mean_estimate(np.array([0.0, 1.0, 2.0, 1.0]), clusters=["a", "a", "b", "b"]).n_clusters
    2
    """
    level, n = check_level(level), len(values)
    mean = float(values.mean())
    deviations, n_groups = values - mean, n
    if clusters is not None:
        names, member = labels_by_row("clusters", clusters, n)
        n_groups = len(names)
        deviations = np.bincount(member, weights=deviations).astype(np.float64)
    if n_groups < 2:
        raise InputError(
            "log" if clusters is None else "clusters", expected="at least two units or clusters", found="one"
        )
    error = float(np.sqrt(n_groups / (n_groups - 1) * np.square(deviations).sum())) / n
    # With few clusters the spread of their sums is itself uncertain.
    spread = stats.norm if clusters is None else stats.t(n_groups - 1)
    reach = float(spread.ppf((1 + level) / 2)) * error
    return Estimate(mean, error, mean - reach, mean + reach, level, n, n_groups)


def z_score(value: float, standard_error: float) -> float:
    """Divide a value by its standard error; with an error of 0, a value other than 0 gives infinity.

    Examples
    --------
    >>> z_score(-1.0, 0.0), z_score(0.0, 0.0), z_score(1.0, 0.5)
    (-inf, 0.0, 2.0)
    """
    if standard_error > 0:
        return value / standard_error
    return float(np.copysign(np.inf, value)) if value else 0.0
