r"""Policy value against budget, from the log alone, with confidence bands.

Units are ranked by the score of a model and evaluated by the doubly robust score. So a model does not
evaluate itself. A curve at share q is the mean of :math:`1\{\text{rank} \le q n\}` times the unit's
score of the reward. At an amount of money b it is the curve at the share at which expected payments reach b.

Standard errors come from a Bayesian bootstrap of units or clusters (Rubin, 1981). Each replicate weighs them
by independent exponential numbers, ranks with those weights, and computes the whole curve again. So no
formula is needed for the errors of thresholds, spends, areas, differences and maxima. Uniform bands take the
largest studentised deviation over the grid (Montiel Olea and Plagborg-Moller, 2019, "Simultaneous
confidence bands").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import joblib
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cfmtl_lib.checks import check_count, check_flag, check_jobs, check_level, check_seed
from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.row_arguments import check_log, numbers_by_row
from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.policy.rewards import NET_CONVERSIONS, unit_of
from cfmtl_lib.value.calibration import tell_of_scores
from cfmtl_lib.value.rankings import Ranking, bootstrap_weights, mean_height, uniform_factor
from cfmtl_lib.value.scores import unit_scores

SHARES = tuple(round(0.02 * step, 2) for step in range(51))


class StoppingPoint(NamedTuple):
    """Highest point of a curve.

    Attributes
    ----------
    budget : float
        Budget of the point, on the axis of the curve.
    value, lower, upper : float
        Value and its uniform band, as the point is chosen by looking at the whole curve.
    earliest, latest : float
        First and last budget whose uniform band reaches the highest lower limit. With probability ``level``
        the best budget of the grid is one of those that do. Not all budgets between the two need do so.
    """

    budget: float
    value: float
    lower: float
    upper: float
    earliest: float
    latest: float


@dataclass(frozen=True, eq=False)
class BudgetCurve:
    """Curve over budgets, or difference of two curves.

    Attributes
    ----------
    by : {"share", "spend"}
        Axis: share of units treated, or payments in the units of the cost.
    budget, value, standard_error : ndarray of shape (k,), float64
        Budget on the axis; value in ``unit`` a row, and its standard error.
    lower, upper : ndarray of shape (k,), float64
        Ends of the pointwise interval.
    lower_uniform, upper_uniform : ndarray of shape (k,), float64
        Band that holds the whole curve with probability ``level``.
    spend, spend_standard_error : ndarray of shape (k,), float64
        Payments at each budget, in the units of the cost (differences for a difference).
    share : ndarray of shape (k,), float64
        Share treated at each budget (differences for a difference).
    area, area_standard_error : float
        Mean height over the axis, and its standard error.
    level : float
        Confidence level.
    n_bootstrap : int
        Number of bootstrap replicates.
    cautions : tuple of str
        Reasons, seen in the log, not to trust the curve; see
        :class:`~cfmtl_lib.value.estimates.Estimate`.
    unit : str
        Unit of the values.
    """

    by: str
    budget: NDArray[np.float64]
    value: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    lower_uniform: NDArray[np.float64]
    upper_uniform: NDArray[np.float64]
    spend: NDArray[np.float64]
    spend_standard_error: NDArray[np.float64]
    share: NDArray[np.float64]
    area: float
    area_standard_error: float
    level: float
    n_bootstrap: int
    cautions: tuple[str, ...] = ()
    unit: str = NET_CONVERSIONS

    def best(self) -> StoppingPoint:
        """Find the budget at which the curve is highest, and those that could be the best as well."""
        k = int(self.value.argmax())
        possible = np.flatnonzero(self.upper_uniform >= self.lower_uniform.max())
        return StoppingPoint(
            float(self.budget[k]),
            float(self.value[k]),
            float(self.lower_uniform[k]),
            float(self.upper_uniform[k]),
            float(self.budget[possible[0]]),
            float(self.budget[possible[-1]]),
        )

    def frame(self) -> pd.DataFrame:
        """Return the curve as a table, a row for each budget."""
        columns = (
            "budget",
            "value",
            "standard_error",
            "lower",
            "upper",
            "lower_uniform",
            "upper_uniform",
            "spend",
            "spend_standard_error",
            "share",
        )
        return pd.DataFrame({name: getattr(self, name) for name in columns})


def budget_curve(
    score: ArrayLike,
    log: IncentiveLog,
    nuisances: LogNuisances | None = None,
    *,
    scenario: str = "coupon",
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
    by: str = "share",
    budgets: ArrayLike | None = None,
    only_positive: bool = True,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    clip: float | None = None,
    n_bootstrap: int = 400,
    seed: int = 0,
    n_jobs: int = 2,
) -> BudgetCurve:
    """Estimate the value at each budget of the policy that ranks by a score.

    Parameters
    ----------
    score : array_like of shape (n,), float
        Ranking score, higher first, of a model that has not seen this log. Units of equal scores are treated
        with equal probability.
    log : IncentiveLog
    nuisances : LogNuisances, optional
        Nuisances of the doubly robust score. The default is
        :func:`~cfmtl_lib.nuisances.cross_fitting.crossfit` with its defaults.
    scenario : {"coupon", "cash"}
    cost, conversion_value
        As in :func:`~cfmtl_lib.value.estimates.policy_value`.
    by : {"share", "spend"}
        Unit of the budgets: shares of the units, or money (estimated payments in the units of the cost). It
        is spent down the ranking until its largest cumulated estimate reaches the budget. Noise makes that
        happen slightly too early.
    budgets : array_like of shape (k,), optional
        Increasing budgets from 0. The default is 0, 0.02, ..., 1, or 51 amounts up to the cost of treating
        everyone.
    only_positive : bool
        True to stop where the score is no longer positive, as
        :func:`~cfmtl_lib.policy.allocation.allocate` does.
    clusters : array_like of shape (n,), optional
        Labels of clusters: units of one cluster (a user, say) may depend on each other. Those of the log if
        left out.
    level : float
        Confidence level, in (0, 1).
    clip : float, optional
        Bound of the propensities, see :func:`~cfmtl_lib.value.scores.unit_scores`.
    n_bootstrap : int
        Number of bootstrap replicates, at least 50.
    seed : int
    n_jobs : int
        Number of threads; the curve does not depend on it.

    Returns
    -------
    BudgetCurve

    Raises
    ------
    InputError
        If shapes differ, scores are not finite, or a parameter is out of range.

    Examples
    --------
    >>> from cfmtl_lib import simulated_features
    >>> study = simulated_features(3000, seed=1)
    >>> rank_by = study.strata_probability[:, 3]
    >>> curve = budget_curve(
    ...     rank_by, study.log, study.true_nuisances, cost=0.4, budgets=[0, 0.5, 1], n_bootstrap=50
    ... )
    >>> bool(curve.value[1] > curve.value[2] / 2)
    True
    """
    return _curve(
        [score],
        log,
        nuisances,
        scenario=scenario,
        cost=cost,
        conversion_value=conversion_value,
        by=by,
        budgets=budgets,
        only_positive=only_positive,
        clusters=clusters,
        level=level,
        clip=clip,
        n_bootstrap=n_bootstrap,
        seed=seed,
        n_jobs=n_jobs,
    )


def budget_curve_difference(
    score: ArrayLike,
    other: ArrayLike,
    log: IncentiveLog,
    nuisances: LogNuisances | None = None,
    *,
    scenario: str = "coupon",
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
    by: str = "share",
    budgets: ArrayLike | None = None,
    only_positive: bool = True,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    clip: float | None = None,
    n_bootstrap: int = 400,
    seed: int = 0,
    n_jobs: int = 2,
) -> BudgetCurve:
    """Estimate the curve of one score minus that of another, at equal budgets on the same units.

    Parameters
    ----------
    score, other : array_like of shape (n,), float
        Ranking scores, higher first.
    log, nuisances, scenario, cost, conversion_value, by, budgets, only_positive
        As in :func:`budget_curve`.
    clusters, level, clip, n_bootstrap, seed, n_jobs
        As in :func:`budget_curve`.

    Returns
    -------
    BudgetCurve
        Difference of the curves; ``area`` is the mean difference over the budgets.

    Raises
    ------
    InputError
        If :func:`budget_curve` raises it.
    """
    return _curve(
        [score, other],
        log,
        nuisances,
        scenario=scenario,
        cost=cost,
        conversion_value=conversion_value,
        by=by,
        budgets=budgets,
        only_positive=only_positive,
        clusters=clusters,
        level=level,
        clip=clip,
        n_bootstrap=n_bootstrap,
        seed=seed,
        n_jobs=n_jobs,
    )


def _curve(
    scores_to_rank: list[ArrayLike],
    log: IncentiveLog,
    nuisances: LogNuisances | None,
    *,
    scenario: str,
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
    by: str,
    budgets: ArrayLike | None,
    only_positive: bool,
    clusters: ArrayLike | None,
    level: float,
    clip: float | None,
    n_bootstrap: int,
    seed: int,
    n_jobs: int,
) -> BudgetCurve:
    check_choice("by", by, ("share", "spend"))
    check_log(log)
    labels, only_positive = log.clusters(clusters), check_flag(only_positive, "only_positive")
    level, seed = check_level(level), check_seed(seed)
    n_bootstrap = check_count(n_bootstrap, "n_bootstrap", least=50, most=100_000)
    n_jobs = check_jobs(n_jobs)
    nuisances = crossfit(log) if nuisances is None else nuisances
    scores = unit_scores(log, nuisances, clip=clip)
    reward, spend = scores.reward(scenario, cost, conversion_value), scores.spend(scenario, cost)
    n = len(log)
    rankings = [
        Ranking(score, reward, spend, only_positive, log.index, subject)
        for score, subject in zip(scores_to_rank, ("score", "other"), strict=False)
    ]
    grid = _checked_budgets(budgets, by, float(spend.mean()))

    def curves(weight: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = [np.stack(ranking.at(grid, by, weight)) for ranking in rankings]
        return parts[0] if len(parts) == 1 else parts[0] - parts[1]

    draw = bootstrap_weights(n, labels, seed)
    value, paid, share = curves(np.ones(n))
    replicates = np.stack(
        joblib.Parallel(n_jobs=n_jobs, prefer="threads")(
            joblib.delayed(lambda index: curves(draw(index))[:2])(index) for index in range(n_bootstrap)
        )
    )
    error, paid_error = replicates.std(axis=0, ddof=1)
    reach = float(stats.norm.ppf((1 + level) / 2)) * error
    uniform = uniform_factor(replicates[:, 0], value, error, level) * error
    areas = mean_height(grid, replicates[:, 0])
    covered = np.any([ranking.wanted for ranking in rankings], axis=0).astype(np.float64)
    return BudgetCurve(
        by=by,
        budget=grid,
        value=value,
        standard_error=error,
        lower=value - reach,
        upper=value + reach,
        lower_uniform=value - uniform,
        upper_uniform=value + uniform,
        spend=paid,
        spend_standard_error=paid_error,
        share=share,
        area=float(mean_height(grid, value)),
        area_standard_error=float(areas.std(ddof=1)),
        level=level,
        n_bootstrap=n_bootstrap,
        cautions=tell_of_scores("budget_curve", log, nuisances, scores, covered, labels, *scores_to_rank),
        unit=unit_of(conversion_value, log.outcome is not None),
    )


def _checked_budgets(budgets: ArrayLike | None, by: str, spend_on_all: float) -> NDArray[np.float64]:
    if by == "spend" and spend_on_all <= 0:
        raise InputError(
            "by",
            expected='payments to put on the axis of by="spend"',
            found=f"estimated payments of {spend_on_all:g} a unit if everyone is treated",
            advice='Use by="share", or a cost above 0.',
        )
    if budgets is None:
        return np.array(SHARES) if by == "share" else np.linspace(0, spend_on_all, len(SHARES))
    grid = numbers_by_row("budgets", budgets)
    top = 1.0 if by == "share" else np.finfo(float).max
    if grid.ndim != 1 or len(grid) < 2 or not (np.diff(grid) > 0).all() or not 0 <= grid[0] < grid[-1] <= top:
        raise InputError(
            "budgets",
            expected="at least two increasing numbers from 0" + (" to 1" if by == "share" else ""),
            found=repr(np.asarray(budgets).tolist())[:80],
        )
    return grid
