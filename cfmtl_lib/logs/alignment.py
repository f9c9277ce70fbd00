"""Values of one argument for the rows of a log: by label where they have labels, else by position.

A pandas Series says which row each of its values belongs to. So it is matched with the log's own labels
(``IncentiveLog.index``), and refused where the two do not agree. Arrays, lists, polars and Arrow columns
have no labels, and go by position.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import issparse

from cfmtl_lib.errors import InputError, LogError, refuse_rows
from cfmtl_lib.logs.tables import arrow_series

LARGEST_EXACT = 2**53
"""Whole numbers of this size or above lose digits as floats."""


def aligned_values(
    subject: str,
    value: Any,
    index: pd.Index | None,
    n: int,
    *,
    error: type[InputError] = InputError,
) -> NDArray:
    """Return the values of an argument that has one for each row of a log, in the order of its rows.

    Parameters
    ----------
    subject : str
        Name of the argument, for errors.
    value : array_like of shape (n,)
        Array, list, or column of pandas, polars or pyarrow.
    index : pandas.Index, optional
        Labels of the rows (``log.index``). None if they have none: a Series must then count from 0.
    n : int
        Number of rows.
    error : type
        Class of the errors.

    Returns
    -------
    ndarray of shape (n,)
        Booleans, numbers or texts; dtype object where a value is missing or the types are mixed.

    Raises
    ------
    InputError
        If there is not one value for each row, or a value is masked. Also if labels do not agree with those
        of the rows. The class is ``error``.

    Examples
    --------
    >>> rows = pd.Index(["ann", "bob", "cid"])
    >>> aligned_values("cost", pd.Series({"cid": 3, "ann": 1, "bob": 2}), rows, 3).tolist()
    [1, 2, 3]
    >>> aligned_values("cost", pd.Series([1, 2, 3]), rows, 3)
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.InputError: cost: expected a Series with the labels of the log's rows ('ann', 'bob', \
...), found label 0 (first at row 0). Pass .to_numpy() if its values are in the order of the rows, else \
.reindex(log.index).
    """
    column = _as_series(value)
    if column is None:
        values = as_array(subject, value, error)
    else:
        if index_of(value) is not None and len(column) == n:
            order = row_order(subject, column.index, index, n, error=error)
            column = column if order is None else column.iloc[order]
        values = plain_values(column)
    if values.shape != (n,):
        found = f"shape {values.shape}" if values.ndim else f"one {type(value).__name__}"
        raise error(subject, expected=f"shape ({n},), one value for each row", found=found)
    return values


def aligned_numbers(
    subject: str,
    value: Any,
    index: pd.Index | None,
    n: int,
    *,
    expected: str = "numbers",
    error: type[InputError] = InputError,
) -> NDArray[np.float64]:
    """Return numbers, one for each row of a log, as float64 of shape (n,), NaN where one is missing.

    Parameters
    ----------
    subject, value, index, n, error
        See :func:`aligned_values`. Decimals and booleans are numbers; texts, dates and complex numbers are
        not.
    expected : str
        Description of the numbers, for errors.

    Raises
    ------
    InputError
        If :func:`aligned_values` raises it, or a value is no number.

    Examples
    --------
    >>> aligned_numbers("cost", [1, None, Decimal("0.5")], None, 3).tolist()
    [1.0, nan, 0.5]
    """
    return as_numbers(
        subject, aligned_values(subject, value, index, n, error=error), expected=expected, error=error
    )


def row_order(
    subject: str,
    given: pd.Index,
    index: pd.Index | None,
    n: int,
    *,
    error: type[InputError] = InputError,
) -> NDArray[np.intp] | None:
    """Find where the rows of a log stand in an argument that has labels; None if they are in order.

    Parameters
    ----------
    subject : str
        Name of the argument, for errors.
    given : pandas.Index
        Labels of the argument.
    index : pandas.Index, optional
        Labels of the rows of the log, if they have any.
    n : int
        Number of rows.
    error : type
        Class of the errors.

    Raises
    ------
    InputError
        If the labels are not those of the rows, or are not unique and in another order.

    Examples
    --------
    >>> row_order("cost", pd.Index([7, 5]), pd.Index([5, 7]), 2).tolist()
    [1, 0]
    """
    wanted = pd.RangeIndex(n) if index is None else index
    if given.equals(wanted):
        return None
    if index is not None and given.is_unique and index.is_unique and len(given) == len(index):
        order = given.get_indexer(index)
        if (order >= 0).all():
            return order
    shown = ", ".join(map(repr, wanted[:2].tolist())) + (", ..." if len(wanted) > 2 else "")
    differs = [k for k, (a, b) in enumerate(zip(given, wanted, strict=False)) if _differ(a, b)]
    row = differs[0] if differs else min(len(given), len(wanted))
    found = f"label {given[row : row + 1].tolist()[0]!r}" if row < len(given) else f"{len(given)} labels"
    raise error(
        subject,
        expected=f"a Series with the labels of the log's rows ({shown})",
        found=found,
        row=row,
        advice="Pass .to_numpy() if its values are in the order of the rows"
        + (", else .reindex(log.index)." if index is not None else "; the log itself has no labels."),
    )


def index_of(value: object) -> pd.Index | None:
    """Return the labels of the rows of a pandas object, or None where there are none.

    Examples
    --------
    >>> index_of(pd.Series([1.0, 2.0], index=["a", "b"])).tolist(), index_of([1.0, 2.0])
    (['a', 'b'], None)
    """
    if isinstance(value, pd.Series | pd.DataFrame):
        return value.index
    if type(value).__module__.startswith("modin."):  # pandas under another name
        return pd.Index(value.index)  # type: ignore[attr-defined]
    return None


def is_missing(values: NDArray) -> NDArray[np.bool_]:
    """Mark missing values: None, NaN, NaT and pandas' NA; shape (n,).

    Examples
    --------
    >>> is_missing(np.array([1, None, np.nan, [2]], dtype=object)).tolist()
    [False, True, True, False]
    """
    if values.dtype.kind == "V":  # records, which pandas cannot look into
        return np.zeros(len(values), dtype=bool)
    return np.asarray(pd.isna(values), dtype=bool)


def common_index(columns: Mapping[str, object]) -> pd.Index | None:
    """Return the labels of the rows of a log that is made of several arguments; None if they have none.

    Parameters
    ----------
    columns : mapping of str to array_like
        Arguments by name, features first. Labels of a table of features are those of the log. If features
        have no labels, the others must all have the same, or none but 0, 1, 2, ...

    Raises
    ------
    LogError
        If labels differ where nothing says which are in the order of the features.
    """
    (_, features), *others = columns.items()
    if index_of(features) is not None:
        return index_of(features)
    labelled = {name: index for name, column in others if (index := index_of(column)) is not None}
    if not labelled:
        return None
    first, index = next(iter(labelled.items()))
    for name, given in labelled.items():
        if not given.equals(index):
            raise LogError(
                name,
                expected=f"the labels of {first}, as x has none",
                found="other labels, or another order",
                advice="Pass x as a table with labels, or each by .to_numpy() in the order of the rows of x.",
            )
    counts = index.equals(pd.RangeIndex(len(index)))
    if len(labelled) < len(others) and not counts:
        raise LogError(
            first,
            expected="an array, or a Series with labels 0, 1, 2, ..., as x has none",
            found=f"label {index[:1].tolist()[0]!r}",
            row=0,
            advice="Pass .to_numpy() if its values are in the order of the rows of x.",
        )
    return None if counts else index


def as_numbers(
    subject: str, values: NDArray, *, expected: str = "numbers", error: type[InputError] = InputError
) -> NDArray[np.float64]:
    """Convert values to float64, NaN where one is missing; refuse texts, dates and complex numbers.

    Raises
    ------
    InputError
        If a value is no number; it names the first row. The class is ``error``.
    """
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    numbers = [_float_of(v) for v in values.tolist()] if values.dtype.kind == "O" else [None] * len(values)
    wrong = np.array([number is None for number in numbers], dtype=bool)
    refuse_rows(subject, wrong, expected=expected, found=values, error=error)
    return np.array(numbers, dtype=np.float64)


def plain_values(column: pd.Series) -> NDArray:
    """Return the values of a column as numpy holds them, with every digit.

    Nullable, Arrow and categorical columns become booleans, numbers, texts or dates. Where a value is
    missing they become objects, with None for it, so that whole numbers stay whole.
    """
    if isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    missing = column.isna().to_numpy()
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    elif not missing.any():
        values = column.to_numpy()
        return values if values.dtype.kind != "O" else _inferred(values)
    objects = np.asarray(column.astype(object).to_numpy(), dtype=object).copy()
    objects[missing] = None
    return objects if missing.any() else _inferred(objects)


def label_codes(labels: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
    """Return the different labels, of any types, in order, and the position of each row's label among them.

    Examples
    --------
    >>> names, member = label_codes(np.array(["b", 7, "b", "a"], dtype=object))
    >>> names.tolist(), member.tolist()
    ([7, 'a', 'b'], [2, 0, 2, 1])
    """
    try:
        names, member = np.unique(labels, return_inverse=True)
        return names, member.astype(np.int64)
    except TypeError:  # types without an order: by type, then as they are written
        codes, found = pd.factorize(labels)
        order = sorted(range(len(found)), key=lambda k: (type(found[k]).__name__, str(found[k])))
        position = np.empty(len(found), dtype=np.int64)
        position[order] = np.arange(len(found))
        return np.asarray(found, dtype=object)[order], position[codes]


def _as_series(value: Any) -> pd.Series | None:
    """Return a column of pandas, Arrow or another library as a Series; None for arrays and lists."""
    if isinstance(value, pd.Series):
        return value
    if isinstance(value, pd.Index | pd.api.extensions.ExtensionArray):
        return pd.Series(value).reset_index(drop=True)
    if isinstance(value, pa.Array | pa.ChunkedArray):
        return arrow_series(value)
    column = nw.from_native(value, series_only=True, pass_through=True)
    if not isinstance(column, nw.Series):
        return None
    return column.to_pandas() if column.implementation.is_pandas_like() else arrow_series(column.to_arrow())


def as_array(subject: str, value: Any, error: type[InputError] = InputError) -> NDArray:
    """Return an array of what has no labels; refuse sparse and masked ones, and what makes no array.

    Raises
    ------
    InputError
        If it cannot be used; the class is ``error``.
    """
    if issparse(value):
        raise error(subject, expected="a dense array", found="a sparse one", advice="Pass .toarray().")
    if isinstance(value, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(value)
        if masked.any():
            raise error(
                subject,
                expected="a value for each row",
                found="a masked one",
                row=int(np.argwhere(masked)[0, 0]) if masked.ndim else None,
                advice="Leave these rows out, or fill them.",
            )
        value = value.data
    try:
        values = np.asarray(value)
        if values.dtype.kind in "US" and not isinstance(value, np.ndarray):
            objects = np.asarray(value, dtype=object)  # numpy writes numbers beside texts as texts
            kinds = {type(v) for v in objects.flat}
            values = values if len(kinds) == 1 else objects
    except (TypeError, ValueError, RuntimeError, OverflowError) as problem:
        raise error(
            subject,
            expected="an array with one value for each row",
            found=f"{type(value).__name__} that is none ({str(problem).splitlines()[0][:80]})",
        ) from problem
    return _inferred(values) if values.dtype.kind == "O" and values.ndim == 1 else values


def _inferred(objects: NDArray) -> NDArray:
    """Give objects of one numpy type that type; mixed and missing ones stay objects."""
    kinds = {type(v) for v in objects}
    if len(kinds) == 1 and kinds <= {bool, int, float, np.bool_, np.float64, np.int64}:
        typed = np.array(objects.tolist())
        return typed if typed.dtype.kind in "biuf" else objects
    return objects


def _float_of(value: object) -> float | None:
    """Return a number as a float, NaN for a missing one, and None for what is no number."""
    if isinstance(value, Real | Decimal | np.bool_):
        try:
            return float(value)
        except (OverflowError, ValueError):  # 10**400, a signalling NaN
            return None
    return np.nan if _is_missing(value) else None


def _is_missing(value: object) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))  # type: ignore[call-overload]


def _differ(a: object, b: object) -> bool:
    return not (a is b or a == b or (_is_missing(a) and _is_missing(b)))
