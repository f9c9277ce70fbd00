"""Checks of the columns of a log: each returns the column as a log stores it, or raises :class:`LogError`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse

from cfmtl_lib.errors import LogError, refuse_rows
from cfmtl_lib.logs.alignment import aligned_numbers, aligned_values, as_numbers, label_codes, row_order
from cfmtl_lib.logs.encoding import FrameEncoder, numeric_column


def check_pairs(x: ArrayLike, n_users: int, n_items: int) -> NDArray[np.int64]:
    """Return x as (n, 2) int64 pairs, or raise :class:`LogError` that names the first unknown id."""
    pairs, is_pairs = checked_x(x)
    if not is_pairs:
        raise LogError(
            "x",
            expected="(n, 2) integer user and item ids",
            found=f"{pairs.dtype} of shape {pairs.shape}",
            advice="This model was fitted on pairs.",
        )
    for name, size, ids in (("user", n_users, pairs[:, 0]), ("item", n_items, pairs[:, 1])):
        beyond = np.flatnonzero(ids >= size)
        if beyond.size:
            raise LogError(
                f"x ({name} id)",
                expected=f"ids 0-{size - 1}, the space of the log that was fitted",
                found=str(ids[beyond[0]]),
                row=int(beyond[0]),
                advice=f"Give IncentiveLog(..., n_{name}s=...) the full space before fitting.",
            )
    return pairs


def encoder_of_pairs(
    pairs: ArrayLike, numbers: ArrayLike, n_users: int | None, n_items: int | None
) -> FrameEncoder:
    """Make the encoder of pairs that come with numbers, with the id spaces of the log."""
    ids, _ = checked_x(pairs)
    return FrameEncoder.of_pairs(
        checked_size("n_users", n_users, ids[:, 0]),
        checked_size("n_items", n_items, ids[:, 1]),
        np.asarray(numbers).shape[-1],
    )


def checked_x(value: ArrayLike) -> tuple[NDArray, bool]:
    """Return pairs as int64 or finite features as floats, and whether they are pairs."""
    if issparse(value):
        raise LogError(
            "x",
            expected="a dense array",
            found="a sparse one",
            advice="sparse input is not supported: x.toarray().",
        )
    x = np.asarray(value)
    if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] == 0:
        raise LogError("x", expected="shape (n, 2) or (n, p) with n, p > 0", found=f"shape {x.shape}")
    if x.dtype.kind in "iu":
        if x.shape[1] != 2:
            raise LogError(
                "x",
                expected="two columns of ids, or float features",
                found=f"integers of shape {x.shape}",
                advice="Pass features as floats: x.astype(float).",
            )
        if x.min() < 0:
            negative = np.flatnonzero((x < 0).any(axis=1))
            raise LogError("x", expected="ids >= 0", found=str(x[negative[0]].tolist()), row=int(negative[0]))
        return np.ascontiguousarray(x, dtype=np.int64), True
    if x.dtype.kind != "f":
        raise LogError("x", expected="integer pairs or float features", found=f"dtype {x.dtype}")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        raise LogError(
            "x",
            expected="finite features",
            found="NaN or infinity",
            row=int(bad[0]),
            advice="IncentiveLog.from_frame takes tables with missing values.",
        )
    return np.ascontiguousarray(x), False


def checked_binary(name: str, value: ArrayLike, n: int, index: pd.Index | None = None) -> NDArray[np.int8]:
    """Return a column of n 0/1 values as int8, in the order of the labels of the log."""
    column = aligned_values(name, value, index, n, error=LogError)
    if column.dtype.kind in "biuf":
        pass
    elif column.dtype.kind == "O":
        column = as_numbers(name, column, expected="0 or 1", error=LogError)
    else:
        raise LogError(name, expected="0/1 numbers", found=f"dtype {column.dtype}")
    wrong = (column != 0) & (column != 1)  # NaN differs from both
    refuse_rows(name, wrong, expected="0 or 1", found=column, error=LogError)
    return column.astype(np.int8)


def binary_column(frame: pd.DataFrame, name: str) -> NDArray[np.int8]:
    """Read a column of 0/1 of a table as int8; errors name the column."""
    values = numeric_column(frame, name)
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if wrong.size:
        found = "a missing value" if np.isnan(values[wrong[0]]) else f"{values[wrong[0]]:g}"
        raise LogError(f"column {name!r}", expected="0 or 1", found=found, row=int(wrong[0]))
    return values.astype(np.int8)


def outcome_columns(
    y: ArrayLike | pd.DataFrame | None, index: pd.Index | None = None
) -> tuple[NDArray, NDArray, NDArray]:
    """Split a y of shape (n, 3) into incentive given, collected and converted.

    A table whose labels are those of x (``index``) in another order is brought into theirs.
    """
    if index is not None and isinstance(y, pd.DataFrame) and len(y) == len(index):
        order = row_order("y", y.index, index, len(index), error=LogError)
        y = y if order is None else y.iloc[order]
    outcomes = None if y is None else np.asarray(y)
    if outcomes is None or outcomes.ndim != 2 or outcomes.shape[1] != 3:
        raise LogError(
            "y",
            expected="shape (n, 3): incentive given, collected, converted",
            found="none" if outcomes is None else f"shape {outcomes.shape}",
            advice="Pass an IncentiveLog alone, or x and y.",
        )
    t, c, converted = outcomes.T
    return t, c, converted


def checked_labels(
    value: ArrayLike, n: int, index: pd.Index | None = None, subject: str = "cluster"
) -> NDArray:
    """Return labels of n rows; check that none is missing."""
    labels = aligned_values(subject, value, index, n, error=LogError)
    missing = pd.isna(labels)
    refuse_rows(
        subject,
        missing,
        expected="a label for each row",
        found="none",
        advice="Give rows of unknown label one of their own.",
        error=LogError,
    )
    return labels


def checked_propensity(value: ArrayLike, n: int, index: pd.Index | None = None) -> NDArray[np.float64]:
    """Return n propensities; check that each lies strictly between 0 and 1."""
    propensity = aligned_numbers("propensity", value, index, n, error=LogError)
    refuse_rows(
        "propensity",
        ~((propensity > 0) & (propensity < 1)),
        expected="values strictly between 0 and 1 (overlap)",
        found=propensity,
        error=LogError,
    )
    return propensity


def checked_size(name: str, size: int | None, ids: NDArray) -> int:
    """Return the size of an id space, by default the largest id plus one; check that all ids fit."""
    least = int(ids.max()) + 1
    if size is None:
        return least
    if size < least:
        raise LogError(name, expected=f"at least {least}, for the ids of x", found=str(size))
    return int(size)


def draw_groups(
    groups: NDArray, n_chosen: Callable[[int], int], rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw whole groups of rows at random.

    Parameters
    ----------
    groups : ndarray of shape (n,)
        Label of the group of each row.
    n_chosen : callable
        Function from the number of groups to the number drawn.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of shape (n,), bool
        True for rows of the groups drawn.
    """
    names, member = label_codes(groups)
    return (rng.permutation(len(names)) < n_chosen(len(names)))[member]
