"""Checks of features, labels and sizes of a log: each returns what a log stores, or raises a LogError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib import checks
from cfmtl_lib.errors import LogError, refuse_rows
from cfmtl_lib.logs.alignment import aligned_numbers, aligned_values, as_array, is_missing, label_codes
from cfmtl_lib.logs.columns import refuse_lost_digits
from cfmtl_lib.logs.encoding import (
    EncodedRows,
    FrameEncoder,
    check_encoder,
    is_pairs_with_numbers,
    pair_columns,
)
from cfmtl_lib.logs.tables import as_table, is_table

LARGEST_ID = 2**31 - 1
"""Largest user or item id, for each id up to the largest has parameters of its own."""


def log_features(
    x: Any, encoder: FrameEncoder | None, pairs: bool | None, n_users: int | None, n_items: int | None
) -> tuple[NDArray, FrameEncoder | None, bool]:
    """Return the x of a log, its encoder, and whether it holds pairs.

    Parameters
    ----------
    x : array_like, DataFrame, or (pairs, numbers)
    encoder : FrameEncoder, optional
        Encoder of the log; learnt from a table if left out.
    pairs : bool, optional
        Whether x holds ids. If left out, an array of integers of shape (n, 2) does, and a table does not.
    n_users, n_items : int, optional
        Sizes of the id spaces.

    Raises
    ------
    LogError
        If x is neither pairs nor features.
    """
    check_encoder(encoder)
    if pairs is not None:
        pairs = checks.check_flag(pairs, "pairs")
    if encoder is None and is_pairs_with_numbers(x):
        encoder = encoder_of_pairs(*x, n_users, n_items)
    elif encoder is None and is_table(x) and not pairs:
        x = as_table(x)
        encoder = FrameEncoder.learn(x, list(x.columns))
    elif encoder is None and isinstance(x, EncodedRows):
        encoder = x.encoder
    if encoder is None:
        matrix, is_pairs = checked_x(x, pairs)
    else:
        named, is_pairs = is_table(x) or is_pairs_with_numbers(x), False
        matrix = encoder.matrix(x) if named else encoder.check(x)
    for name, size in (("n_users", n_users), ("n_items", n_items)):
        if size is not None and not is_pairs and not is_pairs_with_numbers(x):
            raise LogError(name, expected="none, as x holds features", found=checks.describe(size))
    return matrix, encoder, is_pairs


def features_of_fit(x: Any, pairs: bool | None) -> tuple[Any, FrameEncoder | None, bool | None]:
    """Return x of ``fit(X, y)``, its encoder, and whether it holds ids: integers are features there.

    Raises
    ------
    LogError
        If two columns of integers may be features or ids, and ``pairs`` does not say which.
    """
    if is_table(x) and not pairs:
        table = as_table(x)
        return table, FrameEncoder.learn(table, list(table.columns), may_be_empty=True), None
    if is_table(x) or is_pairs_with_numbers(x) or isinstance(x, EncodedRows):
        return x, None, pairs
    given = _array_of_x(x)
    if pairs is None and given.dtype.kind in "iu":
        if given.ndim == 2 and given.shape[1] == 2:
            raise LogError(
                "x",
                expected="features as floats, or pairs=True",
                found="two columns of whole numbers, which may be features or user and item ids",
                advice="Pass x.astype(float) for features. For ids: fit(x, y, pairs=True), or "
                "fit(IncentiveLog(x, t, c, y)).",
            )
        pairs = False
    return given, None, pairs


def checked_index(index: Any, n: int) -> pd.Index:
    """Return n labels of rows as a pandas Index."""
    if not isinstance(index, pd.Index):
        labels = as_array("index", index, LogError)
        index = pd.Index(labels.ravel().astype(object) if labels.dtype.kind not in "iuO" else labels.ravel())
    if len(index) != n:
        raise LogError("index", expected=f"{n} labels, one for each row", found=str(len(index)))
    return index


def check_pairs(x: ArrayLike, n_users: int, n_items: int) -> NDArray[np.int64]:
    """Return x as (n, 2) int64 pairs, or raise :class:`LogError` that names the first unknown id."""
    pairs, is_pairs = checked_x(x if not is_table(x) else pair_columns(x))
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


def encoder_of_pairs(pairs: Any, numbers: Any, n_users: int | None, n_items: int | None) -> FrameEncoder:
    """Make the encoder of pairs that come with numbers, with the id spaces of the log."""
    ids, _ = checked_x(pair_columns(pairs), True)
    named: Any = list(as_table(numbers).columns) if is_table(numbers) else as_array("x", numbers, LogError)
    if not isinstance(named, list):
        if named.ndim != 2:
            raise LogError(
                "x",
                expected="(integer pairs of shape (n, 2), floats of shape (n, p))",
                found=f"numbers of shape {named.shape}",
            )
        named = named.shape[1]
    return FrameEncoder.of_pairs(
        checked_size("n_users", n_users, ids[:, 0]), checked_size("n_items", n_items, ids[:, 1]), named
    )


def checked_x(value: Any, pairs: bool | None = None) -> tuple[NDArray, bool]:
    """Return pairs as int64 or finite features as floats, and whether they are pairs.

    Parameters
    ----------
    value : array_like of shape (n, 2) or (n, p)
    pairs : bool, optional
        Whether they are ids; integers in two columns are if left out.
    """
    x = _array_of_x(pair_columns(value) if pairs else value)
    if x.ndim != 2 or x.shape[0] == 0 or x.shape[1] == 0:
        raise LogError("x", expected="shape (n, 2) or (n, p) with n, p > 0", found=f"shape {x.shape}")
    if x.dtype.kind in "iub" and pairs is False:
        x = x.astype(np.float64)
    if x.dtype.kind in "iu":
        return _checked_ids(x), True
    if pairs:
        raise LogError(
            "x",
            expected="(n, 2) integer user and item ids",
            found=f"{x.dtype} of shape {x.shape}",
            advice="Number ids by pandas.factorize.",
        )
    if x.dtype.kind != "f":
        raise LogError(
            "x",
            expected="integer pairs or float features",
            found=f"dtype {x.dtype}",
            advice="Pass features as floats, x.astype(float), and texts in a table.",
        )
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


def _array_of_x(value: Any) -> NDArray:
    x = as_array("x", value, LogError)
    if x.ndim == 0:
        raise LogError("x", expected="an array", found=checks.describe(value))
    return x


def _checked_ids(x: NDArray) -> NDArray[np.int64]:
    if x.shape[1] != 2:
        raise LogError(
            "x",
            expected="two columns of ids, or float features",
            found=f"integers of shape {x.shape}",
            advice="Pass features as floats: x.astype(float).",
        )
    for wrong, expected in ((x < 0, "ids >= 0"), (x > LARGEST_ID, f"ids up to {LARGEST_ID}")):
        rows = np.flatnonzero(wrong.any(axis=1))
        if rows.size:
            raise LogError(
                "x",
                expected=expected,
                found=str(x[rows[0]].tolist()),
                row=int(rows[0]),
                advice="Number ids from 0 by pandas.factorize.",
            )
    return np.ascontiguousarray(x, dtype=np.int64)


def checked_labels(value: Any, n: int, index: pd.Index | None = None, subject: str = "cluster") -> NDArray:
    """Return labels of n rows; check that none is missing."""
    labels = aligned_values(subject, value, index, n, error=LogError)
    refuse_rows(
        subject,
        is_missing(labels),
        expected="a label in each row",
        found="a missing one",
        advice="Give rows of unknown label one of their own.",
        error=LogError,
    )
    refuse_lost_digits(subject, labels)
    return labels


def checked_propensity(value: Any, n: int, index: pd.Index | None = None) -> NDArray[np.float64]:
    """Return n propensities, or one number for all; check that each lies strictly between 0 and 1."""
    one = checks.real_number(value)
    propensity = (
        aligned_numbers("propensity", value, index, n, error=LogError) if np.isnan(one) else np.full(n, one)
    )
    refuse_rows(
        "propensity",
        ~((propensity > 0) & (propensity < 1)),
        expected="values strictly between 0 and 1 (overlap)",
        found=propensity,
        error=LogError,
    )
    return propensity


def checked_amounts(value: Any, n: int, index: pd.Index | None = None) -> NDArray[np.float64]:
    """Return n amounts as float64; check that each is a finite number.

    Raises
    ------
    LogError
        If an amount is missing or infinite; it names the first row.
    """
    amounts = aligned_numbers("outcome", value, index, n, error=LogError)
    refuse_rows(
        "outcome",
        ~(np.abs(amounts) <= checks.LARGEST_NUMBER),
        expected="finite amounts",
        found=amounts,
        advice="Where nothing was bought the amount is 0: fill it in, if that is what a missing one means.",
        error=LogError,
    )
    return amounts


def checked_size(name: str, size: int | None, ids: NDArray) -> int:
    """Return the size of an id space, by default the largest id plus one; check that all ids fit."""
    least = int(ids.max()) + 1
    if size is None:
        return least
    whole = checks.whole_number(size)
    if whole is None or whole < least or whole > LARGEST_ID + 1:
        raise LogError(
            name,
            expected=f"at least {least}, for the ids of x, as an int",
            found=checks.describe(size),
        )
    return whole


def checked_rows(rows: Any, n: int, index: pd.Index | None) -> NDArray:
    """Return a mask or positions of rows; a Series of booleans is matched with the labels of the log.

    Raises
    ------
    LogError
        If it is neither, or a position lies outside the log.
    """
    if isinstance(rows, pd.Series) and pd.api.types.is_bool_dtype(rows.dtype):
        rows = aligned_values("rows", rows, index, n, error=LogError)
    chosen = _array_of_rows(rows)
    if chosen.ndim != 1 or chosen.dtype.kind not in "biu" or (chosen.dtype.kind == "b" and len(chosen) != n):
        raise LogError(
            "rows",
            expected=f"a mask of shape ({n},), or positions as integers",
            found=f"{chosen.dtype} of shape {chosen.shape}",
        )
    if chosen.dtype.kind != "b":
        outside = (chosen < -n) | (chosen >= n) if chosen.dtype.kind == "i" else chosen >= n
        refuse_rows("rows", outside, expected=f"positions below {n}, the rows", found=chosen, error=LogError)
    return chosen


def _array_of_rows(rows: Any) -> NDArray:
    chosen = as_array("rows", rows, LogError)
    return chosen.astype(np.intp) if chosen.size == 0 else chosen


def locked(values: NDArray) -> NDArray:
    """Return a copy that nobody can change: a log was checked once, and has to stay as it was."""
    encoder = getattr(values, "encoder", None)
    plain = np.array(values, copy=True)
    plain.flags.writeable = False
    if encoder is None:
        return plain
    return EncodedRows.of(plain, encoder)


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
