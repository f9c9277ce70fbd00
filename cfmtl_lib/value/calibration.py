"""Calibration of fitted probabilities, and cautions about intervals that rest on them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cfmtl_lib.checks import check_count
from cfmtl_lib.errors import InputError, TrustWarning
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.row_arguments import labels_by_row, numbers_by_row, same_rows
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.policy.origin import TrainingRows, all_learned_on
from cfmtl_lib.policy.ties import in_order, tie_keys
from cfmtl_lib.value.scores import UnitScores


def equal_size_bins(values: NDArray[np.float64], n_bins: int) -> list[NDArray[np.intp]]:
    """Split rows into bins of equal size by the order of their values, ties at random by position.

    The order of the rows could carry information: in a log sorted by treatment, equal propensities would fall
    into bins of one arm each.

    Parameters
    ----------
    values : ndarray of shape (n,), float
        Values by which rows are ordered.
    n_bins : int
        Number of bins; sizes differ by one row at most.

    Returns
    -------
    list of ndarray of int
        Positions of the rows of each bin, bins of small values first.

    Examples
    --------
    >>> [part.tolist() for part in equal_size_bins(np.array([0.3, 0.1, 0.2]), 2)]
    [[1, 2], [0]]
    """
    return np.array_split(in_order(values, lambda: tie_keys(len(values))), n_bins)


def quantile_bins(values: NDArray[np.float64], n_bins: int) -> list[NDArray[np.intp]]:
    """Split rows at quantiles of their values, so that equal values share a bin.

    Unlike :func:`equal_size_bins` it can give fewer bins, of other sizes, where values are tied.

    Parameters
    ----------
    values : ndarray of shape (n,), float
    n_bins : int
        Largest number of bins.

    Returns
    -------
    list of ndarray of int
        Positions of the rows of each bin, bins of small values first.

    Examples
    --------
    >>> [part.tolist() for part in quantile_bins(np.array([0.3, 0.1, 0.1, 0.2]), 2)]
    [[1, 2], [0, 3]]
    """
    edges = np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1)[1:-1]))
    bin_of = np.searchsorted(edges, values, side="right")
    return [np.flatnonzero(bin_of == b) for b in np.unique(bin_of)]


def calibration_curve(probability: ArrayLike, happened: ArrayLike, n_bins: int = 10) -> pd.DataFrame:
    """Compare predicted and observed frequency in bins of equal size.

    Parameters
    ----------
    probability : array_like of shape (n,), float
        Predicted probability.
    happened : array_like of shape (n,), 0/1 or a known probability
        Observed outcome.
    n_bins : int
        Number of bins.

    Returns
    -------
    DataFrame
        Table with a row for each bin: predicted (mean), observed (mean), standard_error, n.

    Raises
    ------
    InputError
        If there are fewer rows than bins, or a value is none of a probability.

    Examples
    --------
    >>> calibration_curve([0.1, 0.3, 0.7, 0.9], [0, 0, 1, 1], n_bins=2)["observed"].tolist()
    [0.0, 1.0]
    """
    p = numbers_by_row("probability", probability, low=0, high=1)
    rows_of = same_rows("happened", happened, probability)
    h = numbers_by_row("happened", rows_of, len(p), low=0, high=1, booleans=True)
    n_bins = check_count(n_bins, "n_bins")
    if len(p) < n_bins:
        raise InputError("probability", expected=f"at least n_bins = {n_bins} rows", found=f"{len(p)}")
    rows = [
        {
            "predicted": p[part].mean(),
            "observed": h[part].mean(),
            "standard_error": h[part].std() / np.sqrt(len(part)),
            "n": len(part),
        }
        for part in equal_size_bins(p, n_bins)
    ]
    return pd.DataFrame(rows)


MOST_CLIPPED = 0.05
"""Largest share of clipped propensities, among rows that a policy treats, without a caution."""

LEAST_EFFECTIVE_SIZE = 50.0
"""Least effective sample size of an arm without a caution."""

FEWEST_EVENTS = 10
"""Least number of rows of each arm with another outcome than its commonest, without a caution."""

FEWEST_CLUSTERS = 20
"""Least number of clusters without a caution."""

LARGEST_MISCALIBRATION = 0.1
"""Largest distance of treatment frequencies from fitted propensities, in standard deviations of T."""

LARGEST_WEIGHT_GAP = 0.1
"""Largest distance from 1 of the mean inverse-probability weight of an arm."""


def cautions_about(
    log: IncentiveLog,
    nuisances: LogNuisances,
    propensity: NDArray[np.float64],
    covered: NDArray[np.float64],
    *,
    effective_sizes: tuple[float, float],
    member: NDArray[np.int64] | None,
    trained_on: Sequence[TrainingRows] = (),
    outcome: NDArray | None = None,
) -> tuple[str, ...]:
    """List the reasons, visible in a log, for which an interval of its estimate cannot be trusted.

    Parameters
    ----------
    log : IncentiveLog
    nuisances : LogNuisances
    propensity : ndarray of shape (n,), float64
        Propensity after clipping.
    covered : ndarray of shape (n,), float64
        Size of the weight of each row in the estimate: the policy, say.
    effective_sizes : (float, float)
        Effective sample sizes of the treated and the untreated rows.
    member : ndarray of shape (n,), int64, optional
        Number of each row's cluster, from 0, if rows are clustered.
    trained_on : sequence of TrainingRows
        Rows that each of the policies was learned on.
    outcome : ndarray of shape (n,), optional
        Outcome whose mean is estimated; the conversions of the log if left out.

    Returns
    -------
    tuple of str
        Sentences, empty where nothing was seen. That nothing was seen proves nothing.
    """
    found = []
    inside = covered > 0
    if not inside.any():
        return ()
    clipped = float(np.average(propensity != nuisances.propensity, weights=covered))
    if clipped > MOST_CLIPPED:
        found.append(
            f"{clipped:.0%} of the rows had propensities so near 0 or 1 that they were clipped: the data do "
            'not tell the value there (use population="overlap" or "trimmed", or another policy)'
        )
    for arm, size in zip(("treated", "untreated"), effective_sizes, strict=True):
        if size < LEAST_EFFECTIVE_SIZE:
            found.append(f"the effective sample is {size:.0f} {arm} rows: too few for a normal interval")
    observed = log.y if outcome is None else outcome
    for given, name in ((1, "treated"), (0, "untreated")):
        values = observed[inside & (log.t == given)]
        commonest = int(np.unique(values, return_counts=True)[1].max(initial=0))
        if len(values) - commonest < FEWEST_EVENTS:
            found.append(
                f"only {len(values) - commonest} of {len(values):,} {name} rows differ in their outcome from "
                "the others: the standard error is not reliable (collect more rows)"
            )
    if member is not None and (n_clusters := int(member.max()) + 1) < FEWEST_CLUSTERS:
        found.append(f"only {n_clusters} clusters are independent: the standard error is not reliable")
    if not nuisances.cross_fitted:
        found.append("nuisances were fitted on the same rows: the standard error is too small (use folds)")
    if not nuisances.propensity_is_known:
        found += _about_propensity(log, nuisances, propensity, inside, member)
    if share := max((rows.share_of(log) for rows in trained_on), default=0.0):
        found.append(
            f"the policy was learned on {share:.0%} of these rows: its value is too high (value it on other "
            "rows, see IncentiveLog.split)"
        )
    return tuple(found)


def _about_propensity(
    log: IncentiveLog,
    nuisances: LogNuisances,
    propensity: NDArray[np.float64],
    inside: NDArray[np.bool_],
    member: NDArray[np.int64] | None,
) -> list[str]:
    found = []
    gap, p_value = miscalibration(nuisances.propensity, log.t, member=member)
    if gap > LARGEST_MISCALIBRATION and p_value < 0.001:
        found.append(
            f"treatment frequencies differ from the fitted propensities by {gap:.2f} standard deviations "
            "(fit a better propensity; see value.propensity_calibration)"
        )
    for name, weight in (
        ("treated", (log.t / propensity)[inside]),
        ("untreated", ((1 - log.t) / (1 - propensity))[inside]),
    ):
        off = float(weight.mean() - 1)
        groups = None if member is None else member[inside]
        error = float(np.sqrt(_variance_of_sum(weight - weight.mean(), groups))) / len(weight)
        if abs(off) > LARGEST_WEIGHT_GAP and abs(off) > 3 * error:
            found.append(
                f"weights of {name} rows average {1 + off:.2f} instead of 1: the propensity is wrong for "
                "the rows of this policy"
            )
    return found


def _variance_of_sum(deviations: NDArray[np.float64], member: NDArray[np.int64] | None) -> float:
    """Estimate the variance of a sum of deviations that are independent between clusters."""
    sums = deviations if member is None else np.bincount(member, weights=deviations)
    return float(np.square(sums).sum())


def miscalibration(
    probability: NDArray[np.float64],
    happened: NDArray,
    n_bins: int = 20,
    *,
    member: NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """Measure how far frequencies lie from fitted probabilities, beyond chance.

    Parameters
    ----------
    probability : ndarray of shape (n,), float64
    happened : ndarray of shape (n,), 0/1
    n_bins : int
        Largest number of bins of equal size.
    member : ndarray of shape (n,), int64, optional
        Number of each row's cluster. Rows of one cluster can share what happened, and so vary together.

    Returns
    -------
    gap : float
        Root mean square, over bins, of the gap in standard deviations of the outcome, less what chance adds.
    p_value : float
        Chi-squared test of no gap. In large logs harmless gaps are significant: look at the size.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> p = rng.uniform(0.2, 0.8, 5000)
    >>> gap, p_value = miscalibration(p, rng.random(5000) < p)
    >>> gap < 0.05, p_value > 0.01
    (True, True)
    """
    bins = equal_size_bins(probability, min(n_bins, len(probability)))
    beyond, z = np.empty(len(bins)), np.empty(len(bins))
    for k, part in enumerate(bins):
        p = probability[part]
        off = happened[part] - p
        spread = max(float((p * (1 - p)).sum()), 1e-9)
        chance = spread if member is None else max(_variance_of_sum(off, member[part]), 1e-9)
        beyond[k] = (float(off.sum()) ** 2 - chance) / (spread * len(part))
        z[k] = float(off.sum()) / np.sqrt(chance)
    gap = float(np.sqrt(max(0.0, float(beyond.mean()))))
    return gap, float(stats.chi2.sf(np.square(z).sum(), len(bins)))


def tell_of_scores(
    subject: str,
    log: IncentiveLog,
    nuisances: LogNuisances,
    scores: UnitScores,
    covered: NDArray[np.float64],
    clusters: ArrayLike | None,
    *policies: object,
) -> tuple[str, ...]:
    """Warn of cautions about an estimate made of doubly robust scores, and return them.

    Parameters
    ----------
    subject : str
        Name of the function that estimates.
    log, nuisances, covered
        As in :func:`cautions_about`.
    scores : UnitScores
    clusters : array_like of shape (n,), optional
    *policies : array_like
        Policies or rankings, which may remember the rows that they were learned on.
    """
    told = cautions_about(
        log,
        nuisances,
        scores.propensity,
        covered,
        effective_sizes=effective_sample_sizes(covered, scores.propensity, scores.treated),
        member=members_of(clusters, log),
        trained_on=all_learned_on(policies),
    )
    return tell(subject, told, level=4)


def members_of(clusters: ArrayLike | None, log: IncentiveLog) -> NDArray[np.int64] | None:
    """Return the number of each row's cluster, from 0; None without clusters."""
    return None if clusters is None else labels_by_row("clusters", clusters, len(log), log.index)[1]


def tell(subject: str, cautions: tuple[str, ...], *, level: int = 3) -> tuple[str, ...]:
    """Warn of cautions about one estimate at a level of the stack, and return them."""
    if cautions:
        warnings.warn(f"{subject}: {'; '.join(cautions)}.", TrustWarning, stacklevel=level)
    return cautions


def effective_sample_size(weights: NDArray[np.float64]) -> float:
    """Compute the effective sample size of weights: ``(sum w)^2 / sum w^2`` (Kish, 1965).

    Examples
    --------
    >>> effective_sample_size(np.array([1.0, 1.0, 2.0, 0.0])).__round__(2)
    2.67
    """
    total = float(weights.sum())
    return total**2 / float(np.square(weights).sum()) if total > 0 else 0.0


def effective_sample_sizes(
    probability: NDArray[np.float64], propensity: NDArray[np.float64], treated: NDArray[np.bool_]
) -> tuple[float, float]:
    """Compute the effective sample sizes of the treated and untreated rows that a policy would treat."""
    return (
        effective_sample_size((probability / propensity)[treated]),
        effective_sample_size((probability / (1 - propensity))[~treated]),
    )
