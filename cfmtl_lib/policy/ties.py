"""Order among equal values: at random, by a seed and the identity of each row.

The order of the rows of a table can carry information. In a log sorted by its outcome, "the first of equal
rows" are those that converted. So equal values are put in an order of their own. It depends on a seed
and on each row's label, or on its position where rows have no labels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.checks import check_seed
from cfmtl_lib.logs.alignment import index_of

TieKeys = Callable[[], NDArray[np.uint64]]
"""Function of the numbers by which equal rows are ordered; called only where there are such rows."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def tie_keys(n: int, seed: int = 0, values: object = None) -> NDArray[np.uint64]:
    """Compute a number for each row by which equal rows are ordered.

    Parameters
    ----------
    n : int
        Number of rows.
    seed : int
        Seed of the order; another one gives another order.
    values : object, optional
        Argument that the rows belong to. If it is a pandas object, the numbers follow its labels: the same
        rows in another order have the same numbers. Otherwise they follow the positions.

    Returns
    -------
    ndarray of shape (n,), uint64

    Examples
    --------
    >>> rows = pd.Series([1.0, 1.0, 1.0], index=["ann", "bob", "cid"])
    >>> keys = pd.Series(tie_keys(3, 0, rows), index=rows.index)
    >>> bool((tie_keys(3, 0, rows[::-1]) == keys[::-1]).all())
    True
    """
    labels = index_of(values)
    if labels is None or isinstance(labels, pd.RangeIndex):
        start, step = (0, 1) if labels is None else (labels.start, labels.step)
        names = (start + step * np.arange(n)).astype(np.uint64)
    elif isinstance(labels.dtype, np.dtype) and labels.dtype.kind in "iu":
        names = np.asarray(labels).astype(np.uint64)
    else:
        names = np.asarray(pd.util.hash_pandas_object(labels, index=False), dtype=np.uint64)
    keys = _mixed(names ^ _mixed(np.full(1, check_seed(seed), dtype=np.uint64)))
    if labels is not None and not labels.is_unique:  # rows of one label: by position as well
        keys = _mixed(keys ^ _mixed(np.arange(n, dtype=np.uint64)))
    return keys


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits of each number (SplitMix64; Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        z = numbers + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def in_order(values: NDArray[np.float64], keys: TieKeys) -> NDArray[np.intp]:
    """Return the positions of the rows, small values first, equal ones by their keys.

    Examples
    --------
    >>> in_order(np.array([2.0, 1.0, 1.0]), lambda: np.array([0, 9, 3], dtype=np.uint64)).tolist()
    [2, 1, 0]
    """
    order = np.argsort(values, kind="stable")
    in_line = values[order]
    return order if (in_line[1:] > in_line[:-1]).all() else np.lexsort((keys(), values))


def highest(values: NDArray[np.float64], k: int, keys: TieKeys) -> NDArray[np.bool_]:
    """Mark the k rows of highest value; of those at the threshold, the ones with the smallest keys.

    Examples
    --------
    >>> highest(np.array([2.0, 1.0, 1.0]), 2, lambda: np.array([0, 9, 3], dtype=np.uint64)).tolist()
    [True, False, True]
    """
    if k == 0:
        return np.zeros(len(values), dtype=bool)
    # A threshold found without sorting takes a tenth of the time.
    least = np.partition(values, len(values) - k)[len(values) - k]
    chosen = values > least
    tied = np.flatnonzero(values == least)
    places = k - int(chosen.sum())
    if places < len(tied):
        tied = tied[np.argsort(keys()[tied], kind="stable")[:places]]
    chosen[tied] = True
    return chosen
