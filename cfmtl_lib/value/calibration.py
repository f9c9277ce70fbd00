"""Predicted against observed frequencies, in bins of equal size."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.checks import check_count
from cfmtl_lib.errors import InputError
from cfmtl_lib.logs.row_arguments import numbers_by_row, same_rows
from cfmtl_lib.policy.ties import in_order, tie_keys


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
