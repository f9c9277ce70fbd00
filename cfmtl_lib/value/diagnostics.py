r"""Checks of the assumptions on a log: overlap, balance, negative controls, testable implications.

None of them can show that treatment is unconfounded. Each can show that something is wrong: a fitted
propensity leaves imbalance, some units are never treated, or strata shares come out negative.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cfmtl_lib.checks import LARGEST_COUNT, check_count, check_number, describe
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.row_arguments import check_log, labels_by_row, numbers_by_row
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.strata import ALWAYS_BUYER, COUPON_BUYER, STRATA
from cfmtl_lib.value.calibration import effective_sample_size, equal_size_bins
from cfmtl_lib.value.estimates import Estimate, mean_estimate, z_score
from cfmtl_lib.value.scores import check_nuisances, unit_scores

QUANTILES = (0.0, 0.01, 0.05, 0.5, 0.95, 0.99, 1.0)


def overlap(log: IncentiveLog, nuisances: LogNuisances, *, extreme: float = 0.05) -> pd.DataFrame:
    """Summarise the propensities of the two arms and the effective sample size of their weights.

    Parameters
    ----------
    log : IncentiveLog
    nuisances : LogNuisances
    extreme : float
        Bound: propensities below it or above one minus it count as extreme.

    Returns
    -------
    DataFrame
        Table with index: untreated, treated. Columns: n, quantiles of the propensity (q0 ... q100), extreme
        (share of rows), effective_sample_size and largest_weight. The last two are those of the
        inverse-probability weights: effective sample size (Kish, 1965), and largest share of one row.

    Raises
    ------
    InputError
        If log and nuisances differ in length, or a propensity is 0 or 1.

    Examples
    --------
    >>> from cfmtl_lib import simulated_features
    >>> study = simulated_features(1000)
    >>> int(overlap(study.log, study.true_nuisances)["n"].sum())
    1000
    """
    extreme = check_number(extreme, "extreme", low=0, high=0.5)
    scores = unit_scores(log, nuisances, clip=0.0)
    rows = {}
    for name, in_arm in (("untreated", ~scores.treated), ("treated", scores.treated)):
        e = scores.propensity[in_arm]
        weight = 1 / (e if name == "treated" else 1 - e)
        quantiles = {f"q{100 * q:g}": v for q, v in zip(QUANTILES, np.quantile(e, QUANTILES), strict=True)}
        rows[name] = {
            "n": len(e),
            **quantiles,
            "extreme": float(((e < extreme) | (e > 1 - extreme)).mean()),
            "effective_sample_size": effective_sample_size(weight),
            "largest_weight": float(weight.max() / weight.sum()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def balance(log: IncentiveLog, nuisances: LogNuisances, covariates: pd.DataFrame) -> pd.DataFrame:
    """Compute standardised mean differences of the arms, before and after inverse-probability weighting.

    Parameters
    ----------
    log : IncentiveLog
    nuisances : LogNuisances
    covariates : DataFrame of n rows
        Numbers known before treatment. Those that the propensity model did not see say most.

    Returns
    -------
    DataFrame
        Table with index: the covariates. Columns: before, after, z_after. The first two are differences of
        the arms' means over the pooled standard deviation before weighting. Austin (2009) takes 0.1 as the
        limit. The last is the difference after weighting over its standard error. It is about standard
        normal if the propensity is exactly right, as a known one is.

    Raises
    ------
    InputError
        If covariates differ from the log in length or are not finite.

    Examples
    --------
    >>> from cfmtl_lib import simulated_features
    >>> study = simulated_features(4000)
    >>> smd = balance(study.log, study.true_nuisances, pd.DataFrame(study.log.x))
    >>> bool(smd["before"].abs().max() > 0.2), bool(smd["after"].abs().max() < 0.1)
    (True, True)
    """
    rows = {}
    check_nuisances(nuisances, log)
    treated = log.t == 1
    if not hasattr(covariates, "columns"):
        raise InputError("covariates", expected="a DataFrame", found=describe(covariates))
    for name in covariates.columns:
        column = covariates[name]
        z = numbers_by_row(f"covariates, column {name}", column, len(log), log.index, booleans=True)
        weighted = negative_control(z, log, nuisances)
        pooled = float(np.sqrt((z[treated].var() + z[~treated].var()) / 2))
        rows[name] = {
            "before": z_score(float(z[treated].mean() - z[~treated].mean()), pooled),
            "after": z_score(weighted.value, pooled),
            "z_after": weighted.z,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def negative_control(
    outcome: ArrayLike,
    log: IncentiveLog,
    nuisances: LogNuisances,
    *,
    means: tuple[ArrayLike, ArrayLike] | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    clip: float | None = None,
) -> Estimate:
    """Estimate the effect of treatment on an outcome that it cannot have changed; it should be 0.

    Parameters
    ----------
    outcome : array_like of shape (n,), float
        Outcome that treatment cannot change (fixed before it, or a placebo) and that confounders may affect.
    log : IncentiveLog
    nuisances : LogNuisances
        Nuisances, of which only the propensity is used.
    means : (array_like, array_like), optional
        Means E[outcome | T=1, x] and E[outcome | T=0, x] at the rows, for a doubly robust estimate.
        Normalised inverse-probability weighting (Hajek) if left out.
    clusters, level, clip
        As in :func:`~cfmtl_lib.value.estimates.policy_value`.

    Returns
    -------
    Estimate
        Estimate of E[outcome(1) - outcome(0)].

    Raises
    ------
    InputError
        If a shape differs from the log or a number is not finite.

    Notes
    -----
    See Lipsitch, Tchetgen Tchetgen and Cohen (2010), "Negative controls". The standard error takes the
    propensity as exact. In a large log, errors of a fitted one that are too small to matter become
    significant. Look at the size as well, or give ``means``, which make small errors of the propensity
    harmless.
    """
    z = numbers_by_row("outcome", outcome, len(check_log(log)), log.index, booleans=True)
    scores = unit_scores(log, nuisances, clip=clip)
    treated, e = scores.treated, scores.propensity
    to_one, to_zero = treated / e, ~treated / (1 - e)
    if means is None:
        # Linearised ratio of weighted sums: its mean is the estimate, its spread gives the error.
        m1, m0 = (float((w * z).sum() / w.sum()) for w in (to_one, to_zero))
        unit = m1 - m0 + to_one / to_one.mean() * (z - m1) - to_zero / to_zero.mean() * (z - m0)
    else:
        if not isinstance(means, tuple | list) or len(means) != 2:
            raise InputError("means", expected="two: of the treated, of the untreated", found=describe(means))
        by_row = [numbers_by_row("means", mean, len(log), log.index) for mean in means]
        unit = by_row[0] - by_row[1] + to_one * (z - by_row[0]) - to_zero * (z - by_row[1])
    return mean_estimate(unit, clusters=log.clusters(clusters), level=level)


def propensity_calibration(
    log: IncentiveLog, nuisances: LogNuisances, *, by: ArrayLike | None = None, n_bins: int = 20
) -> pd.DataFrame:
    """Compare fitted and observed frequency of treatment, in bins of equal size.

    Parameters
    ----------
    log : IncentiveLog
    nuisances : LogNuisances
        Nuisances fitted on other rows: a model is always calibrated on its own.
    by : array_like of shape (n,), float, optional
        Number, known before treatment, by which to bin instead of the fitted propensity. A model can be
        calibrated over its own predictions and wrong along another variable.
    n_bins : int
        Number of bins.

    Returns
    -------
    DataFrame
        Table with a row for each bin: predicted, observed (means), standard_error, z, n.
        ``attrs["p_value"]`` is that of the sum of z squared (chi-squared with n_bins degrees of freedom).

    Raises
    ------
    InputError
        If there are fewer rows than bins, or ``by`` has another length.
    """
    check_nuisances(nuisances, log)
    n = len(log)
    key = nuisances.propensity if by is None else numbers_by_row("by", by, n, log.index)
    n_bins = check_count(n_bins, "n_bins", most=n)
    rows = []
    for part in equal_size_bins(key, n_bins):
        e, t = nuisances.propensity[part], log.t[part]
        error = float(np.sqrt((e * (1 - e)).sum())) / len(part)
        gap = float(t.mean() - e.mean())
        rows.append(
            {
                "predicted": float(e.mean()),
                "observed": float(t.mean()),
                "standard_error": error,
                "z": z_score(gap, error),
                "n": len(part),
            }
        )
    table = pd.DataFrame(rows)
    table.attrs["p_value"] = float(stats.chi2.sf(np.square(table["z"]).sum(), n_bins))
    return table


def check_implications(
    log: IncentiveLog,
    nuisances: LogNuisances,
    *,
    groups: ArrayLike | None = None,
    n_groups: int = 10,
    clusters: ArrayLike | None = None,
    clip: float | None = None,
) -> pd.DataFrame:
    r"""Test :math:`P(Y{=}1|T{=}1,x) \ge P(Y{=}1|T{=}0,x) \ge P(C{=}0,Y{=}1|T{=}1,x)` over groups of x.

    The first inequality says that the share of coupon buyers is not negative, the second that the share of
    always buyers is not. Both follow from unconfoundedness, exclusion and monotonicity. A violation is
    evidence against at least one of them, or against the nuisances.

    Parameters
    ----------
    log : IncentiveLog
    nuisances : LogNuisances
    groups : array_like of shape (n,), optional
        Labels of groups of x, known before treatment. The default is groups of equal size by the predicted
        probability of the stratum under test. A violation is most likely in the lowest of them.
    n_groups : int
        Number of groups; used only without ``groups``.
    clusters, clip
        As in :func:`~cfmtl_lib.value.estimates.policy_value`.

    Returns
    -------
    DataFrame
        Table with columns stratum, group, n, share, standard_error, z, p_value (one-sided, against a
        share >= 0), p_holm (adjusted for all rows; Holm, 1979).

    Raises
    ------
    InputError
        If groups do not fit the log, or one has fewer than two rows.
    """
    unit = unit_scores(log, nuisances, clip=clip).strata()
    most = LARGEST_COUNT if groups is not None else max(1, len(log) // 2)  # two rows a group
    n_groups = check_count(n_groups, "n_groups", most=most)
    labels = log.clusters(clusters)
    cluster = None if labels is None else labels_by_row("clusters", labels, len(log))[1]
    predicted = nuisances.predicted_strata()
    given = None if groups is None else labels_by_row("groups", groups, len(log), log.index)
    rows = []
    for s in (COUPON_BUYER, ALWAYS_BUYER):
        names, member = given or (np.arange(n_groups), _equal_groups(predicted[:, s], n_groups))
        for k, name in enumerate(names):
            inside = np.flatnonzero(member == k)
            estimate = mean_estimate(unit[inside, s], clusters=None if cluster is None else cluster[inside])
            rows.append(
                {
                    "stratum": STRATA[s],
                    "group": name,
                    "n": len(inside),
                    "share": estimate.value,
                    "standard_error": estimate.standard_error,
                    "z": estimate.z,
                    "p_value": float(stats.norm.cdf(estimate.z)),
                }
            )
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p_value"].to_numpy())
    return table


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjust p-values so that the chance of any false rejection is bounded (Holm, 1979).

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1.0)
    return adjusted


def _equal_groups(values: NDArray[np.float64], n_groups: int) -> NDArray[np.int64]:
    member = np.empty(len(values), dtype=np.int64)
    for k, part in enumerate(equal_size_bins(values, n_groups)):
        member[part] = k
    return member
