"""Memory of the rows that a prediction was learned on.

The value of a policy on the rows that it was learned on is too good: the model has seen their noise. So
predictions of a fitted model carry hashes of its training rows, through arithmetic and
:func:`~cfmtl_lib.policy.allocation.allocate`. The functions that value a policy compare them with their log.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.logs.incentive_log import IncentiveLog

UNIQUE_ENOUGH = 0.9
"""Least share of different rows for which equal rows mean the same unit."""


class TrainingRows:
    """Hashes of the rows of a log: features, treatment, collection and conversion.

    Parameters
    ----------
    log : IncentiveLog

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> k = np.arange(40)
    >>> log = IncentiveLog(rng.normal(size=(40, 2)), t=k % 2, c=0 * k, y=k % 3 == 0)
    >>> first, second = log.split(0.5)
    >>> TrainingRows(first).share_of(log), TrainingRows(first).share_of(second)
    (0.5, 0.0)
    """

    def __init__(self, log: IncentiveLog) -> None:
        self.hashes = np.sort(row_hashes(log))
        different = (1 + np.count_nonzero(np.diff(self.hashes))) / len(self.hashes)
        self.identifies_units = different >= UNIQUE_ENOUGH
        # Other units equal one of these about as often as these equal one another.
        self.most_by_chance = 0.01 + 2 * (1 - different)

    def share_of(self, log: IncentiveLog) -> float:
        """Return the share of a log's rows that are among these.

        Where many rows are equal, as with few binary features, only the same log as a whole counts. A share
        that equal rows can have by chance is 0.
        """
        hashes = row_hashes(log)
        if not self.identifies_units:
            return float(np.array_equal(np.sort(hashes), self.hashes))
        place = np.searchsorted(self.hashes, hashes).clip(max=len(self.hashes) - 1)
        share = float((self.hashes[place] == hashes).mean())
        return share if share > self.most_by_chance else 0.0


def row_hashes(log: IncentiveLog) -> NDArray[np.uint64]:
    """Hash each row of a log; shape (n,)."""
    columns = [*log.x.T, 4 * log.t + 2 * log.c + log.y]
    found = np.zeros(len(log), dtype=np.uint64)
    for column in columns:
        hashed = pd.util.hash_array(np.ascontiguousarray(column))
        found = (found ^ hashed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)  # order of columns counts
    return found


class LearnedArray(np.ndarray):
    """Array of predictions that knows the rows which its model was fitted to.

    Attributes
    ----------
    learned_on : TrainingRows or None
    """

    learned_on: TrainingRows | None

    def __array_finalize__(self, origin: Any) -> None:
        self.learned_on = getattr(origin, "learned_on", None)

    def __array_wrap__(self, array: NDArray, context: Any = None, return_scalar: bool = False) -> Any:
        if array.ndim == 0:  # sums and means are plain numbers
            return array[()]
        return super().__array_wrap__(array, context, return_scalar)

    def __reduce__(self) -> Any:  # hashes stay with the process that fitted the model
        return np.asarray(self).__reduce__()


def learned(values: NDArray, rows: TrainingRows | None) -> NDArray:
    """Return an array that remembers training rows; the array itself where there are none."""
    if rows is None:
        return values
    traced = values.view(LearnedArray)
    traced.learned_on = rows
    return traced


def learned_on(values: object) -> TrainingRows | None:
    """Return the training rows that predictions, or a policy made of them, remember."""
    return getattr(values, "learned_on", None)


def all_learned_on(policies: Iterable[object]) -> list[TrainingRows]:
    """Return the training rows that any of several policies remember."""
    return [rows for rows in map(learned_on, policies) if rows is not None]
