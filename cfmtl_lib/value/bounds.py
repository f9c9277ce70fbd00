r"""Sharp bounds on the shares of the strata without exclusion, without monotonicity, or without both.

With C(0) = 0 alone, a unit is one of eight types (C(1), Y(0), Y(1)). Exclusion rules out the two types with
C(1) = 0 and Y(1) other than Y(0). Monotonicity rules out the type with C(1) = 1, Y(0) = 1, Y(1) = 0. The five
left are the strata. A log identifies four means: P(Y=1|T=1,x), P(Y=1|T=0,x), P(C=1|T=1,x), P(C=1,Y=1|T=1,x).
They bound the share of a stratum by a linear program over the eight shares (Balke and Pearl, 1997). At one x
the range is sharp: each end is attained by shares that agree with all that the log shows of it. Ranges of
averages over x are sharp given those averages only; averages of ranges narrow them.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from cfmtl_lib.checks import check_flag
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.row_arguments import check_log, labels_by_row, numbers_by_row
from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.strata import POTENTIAL_OUTCOMES, STRATA
from cfmtl_lib.value.estimates import mean_estimate
from cfmtl_lib.value.scores import unit_scores

LEAST_GROUP = 100
"""Least number of rows in a group of x."""

TYPES = tuple(product((0, 1), repeat=3))
"""Eight types (C(1), Y(0), Y(1))."""

_TYPE_OF_STRATUM = [TYPES.index((int(c1), int(y0), int(y1))) for _, c1, y0, y1 in POTENTIAL_OUTCOMES]

_EQUATIONS = np.array(
    [
        [1 for _ in TYPES],
        [y1 for _, _, y1 in TYPES],
        [y0 for _, y0, _ in TYPES],
        [c1 for c1, _, _ in TYPES],
        [c1 * y1 for c1, _, y1 in TYPES],
    ],
    dtype=np.float64,
)


class ShareRange(NamedTuple):
    """Sharp range of the share of one stratum, with the slopes of its ends in the four means.

    Attributes
    ----------
    lower, upper : float
        Ends of the range.
    lower_slopes, upper_slopes : ndarray of shape (4,), float64
        Derivatives of the ends in the four means.
    """

    lower: float
    upper: float
    lower_slopes: NDArray[np.float64]
    upper_slopes: NDArray[np.float64]


def share_ranges(
    means: ArrayLike, *, exclusion: bool = True, monotonicity: bool = True
) -> tuple[list[ShareRange], float]:
    """Compute sharp ranges of the five shares from four means.

    Parameters
    ----------
    means : array_like of shape (4,), float
        Means P(Y=1|T=1), P(Y=1|T=0), P(C=1|T=1), P(C=1,Y=1|T=1).
    exclusion, monotonicity : bool
        True to assume them.

    Returns
    -------
    ranges : list of ShareRange
        Ranges in the order of :data:`~cfmtl_lib.strata.STRATA`.
    slack : float
        Least total change of the means that makes them possible under the assumptions; 0 if they are. The
        ranges are those of the changed means. If several changes are equally small, one of them is taken.

    Raises
    ------
    InputError
        If there are not four finite means, or a flag is no boolean.

    Examples
    --------
    >>> ranges, slack = share_ranges([0.6, 0.5, 0.7, 0.45], monotonicity=False)
    >>> [(round(r.lower, 2), round(r.upper, 2)) for r in ranges]
    [(0.15, 0.15), (0.15, 0.15), (0.0, 0.25), (0.1, 0.35), (0.1, 0.35)]
    """
    b = numbers_by_row("means", means, 4)
    exclusion, monotonicity = check_flag(exclusion, "exclusion"), check_flag(monotonicity, "monotonicity")
    allowed = [
        (exclusion is False or c1 == 1 or y0 == y1) and (monotonicity is False or (c1, y0, y1) != (1, 1, 0))
        for c1, y0, y1 in TYPES
    ]
    limits = [(0.0, None if possible else 0.0) for possible in allowed]
    slack, shift = _nearest_possible(b, limits)
    right = np.concatenate([[1.0], b + shift])
    ranges = []
    for index in _TYPE_OF_STRATUM:
        low, high = (_end(index, sign, right, limits) for sign in (1.0, -1.0))
        ranges.append(ShareRange(low[0], high[0], low[1], high[1]))
    return ranges, slack


def strata_bounds(
    log: IncentiveLog,
    nuisances: LogNuisances | None = None,
    *,
    exclusion: bool = True,
    monotonicity: bool = True,
    groups: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    clip: float | None = None,
) -> pd.DataFrame:
    """Bound the five shares in a log, from doubly robust means within groups of x.

    Parameters
    ----------
    log, nuisances, clusters, level, clip
        As in :func:`~cfmtl_lib.value.estimates.policy_value`.
    exclusion, monotonicity : bool
        True to assume them.
    groups : array_like of shape (n,), optional
        Labels of groups of x, of at least 100 rows each. Bounds are found within each group and averaged,
        which narrows them: they are sharp given what the groups show. One group if left out.

    Returns
    -------
    DataFrame
        Table with index: the strata. Columns: lower, upper, their standard errors (lower_se, upper_se),
        lower_limit and upper_limit. The limits cover the share with probability ``level`` (Imbens and
        Manski, 2004). ``attrs["slack"]`` is the average change of the means that made them possible; errors
        do not hold where it is not 0.

    Raises
    ------
    InputError
        If shapes differ, or a group has fewer than 100 rows.

    Notes
    -----
    Standard errors hold the active constraints fixed (the delta method). A lower end is the largest of
    several linear functions of the means, an upper end the smallest. Where two of them nearly tie, noise in
    the means moves the ends inwards, and more so in small groups. Prefer few large groups.
    """
    labels = check_log(log).clusters(clusters)
    nuisances = crossfit(log) if nuisances is None else nuisances
    moments = unit_scores(log, nuisances, clip=clip).moments
    given = np.zeros(len(log)) if groups is None else groups
    names, member = labels_by_row("groups", given, len(log), log.index)
    sizes = np.bincount(member)
    if groups is not None and sizes.min() < LEAST_GROUP:
        raise InputError(
            "groups",
            expected=f"at least {LEAST_GROUP} rows in each group",
            found=f"{sizes.min()} in group {names[sizes.argmin()]}",
            advice="Bounds of small groups are too narrow: merge some.",
        )
    unit = np.empty((len(STRATA), 2, len(log)))
    total_slack = 0.0
    for k in range(len(names)):
        rows = np.flatnonzero(member == k)
        means = moments[rows].mean(axis=0)
        ranges, slack = share_ranges(means, exclusion=exclusion, monotonicity=monotonicity)
        total_slack += slack * len(rows) / len(log)
        away = moments[rows] - means
        for s, found in enumerate(ranges):
            unit[s, 0, rows] = found.lower + away @ found.lower_slopes
            unit[s, 1, rows] = found.upper + away @ found.upper_slopes
    table = []
    for s in range(len(STRATA)):
        low, high = (mean_estimate(unit[s, end], clusters=labels, level=level) for end in (0, 1))
        reach = _imbens_manski(high.value - low.value, low.standard_error, high.standard_error, level)
        table.append(
            {
                "lower": low.value,
                "upper": high.value,
                "lower_se": low.standard_error,
                "upper_se": high.standard_error,
                "lower_limit": low.value - reach * low.standard_error,
                "upper_limit": high.value + reach * high.standard_error,
            }
        )
    frame = pd.DataFrame(table, index=pd.Index(STRATA, name="stratum"))
    frame.attrs["slack"] = total_slack
    return frame


def _imbens_manski(width: float, lower_error: float, upper_error: float, level: float) -> float:
    """Count standard errors to go beyond both ends: two-sided for a point, one-sided for a wide range."""
    error = max(lower_error, upper_error)
    two_sided, one_sided = stats.norm.ppf((1 + level) / 2), stats.norm.ppf(level)
    if error == 0 or width <= 0:
        return float(two_sided)

    def excess(c: float) -> float:
        return float(stats.norm.cdf(c + width / error) - stats.norm.cdf(-c)) - level

    # At the two-sided value the excess is positive, at the one-sided one negative or 0 to machine precision.
    return (
        float(one_sided) if excess(one_sided) >= 0 else float(optimize.brentq(excess, one_sided, two_sided))
    )


def _end(
    index: int, sign: float, right: NDArray[np.float64], limits: list[tuple[float, float | None]]
) -> tuple[float, NDArray[np.float64]]:
    objective = np.zeros(len(TYPES))
    objective[index] = sign
    found = _solve(objective, _EQUATIONS, right, limits)
    return sign * float(found.fun), sign * found.eqlin.marginals[1:]


def _nearest_possible(
    means: NDArray[np.float64], limits: list[tuple[float, float | None]]
) -> tuple[float, NDArray[np.float64]]:
    """Find the least L1 change of the means that makes them possible."""
    k = len(means)
    up_and_down = np.vstack([np.zeros((1, 2 * k)), np.hstack([-np.eye(k), np.eye(k)])])
    equations = np.hstack([_EQUATIONS, up_and_down])
    objective = np.concatenate([np.zeros(len(TYPES)), np.ones(2 * k)])
    right = np.concatenate([[1.0], means])
    found = _solve(objective, equations, right, limits + [(0.0, None)] * (2 * k))
    if found.fun <= 1e-12:
        return 0.0, np.zeros(k)
    up, down = found.x[len(TYPES) :].reshape(2, k)
    return float(found.fun), up - down


def _solve(
    objective: NDArray[np.float64],
    equations: NDArray[np.float64],
    right: NDArray[np.float64],
    limits: list[tuple[float, float | None]],
) -> optimize.OptimizeResult:
    found = optimize.linprog(objective, A_eq=equations, b_eq=right, bounds=limits, method="highs")
    if not found.success:  # cannot happen for means made possible: say so rather than return a number
        raise ArithmeticError(f"The linear program of the bounds failed: {found.message}")
    return found
