"""Checks of arguments with a number, a probability or a label for each row.

Beside a log, labels of a pandas Series are matched with those of the log. Without one, the first argument
says what the rows are. A Series beside it must have its labels, or count from 0 if it has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.checks import LARGEST_NUMBER, describe, interval
from cfmtl_lib.errors import InputError, refuse_rows
from cfmtl_lib.logs.alignment import (
    aligned_values,
    as_array,
    as_numbers,
    index_of,
    is_missing,
    label_codes,
    row_order,
)
from cfmtl_lib.logs.incentive_log import IncentiveLog


def is_one_number(value: Any) -> bool:
    """Tell whether an argument that may hold a number for each row is meant to hold one for all.

    Examples
    --------
    >>> is_one_number(0.4), is_one_number([0.4]), is_one_number("0.4"), is_one_number(None)
    (True, False, True, True)
    """
    if isinstance(value, str | bytes) or getattr(value, "shape", None) == ():
        return True
    return not hasattr(value, "__len__")


def numbers_by_row(
    subject: str,
    values: Any,
    n: int | None = None,
    index: pd.Index | None = None,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    booleans: bool = False,
    missing: bool = False,
    advice: str = "",
) -> NDArray[np.float64]:
    """Return one number for each row as float64.

    Parameters
    ----------
    subject : str
        Name of the argument, for errors.
    values : array_like of shape (n,), float
        Numbers; a Series is matched with ``index``.
    n : int, optional
        Number of rows. As many as there are values if left out, in their own order.
    index : pandas.Index, optional
        Labels of the rows, where they have any.
    low, high : float
        Bounds of the numbers, both included.
    booleans : bool
        True to accept True as 1 and False as 0.
    missing : bool
        True to accept NaN.
    advice : str
        Next step for the reader of an error about a row.

    Returns
    -------
    ndarray of shape (n,), float64

    Raises
    ------
    InputError
        If the shape or the labels are wrong, or an entry is no finite number within the bounds; it names the
        first row.

    Examples
    --------
    >>> numbers_by_row("score", [0.2, float("nan")], 2)
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.InputError: score: expected finite numbers, found nan (first at row 1).
    """
    if n is None:
        n, index = _length(subject, values), index_of(values)
    given = aligned_values(subject, values, index, n)
    if not booleans:
        _refuse_booleans(subject, given)
    numbers = as_numbers(subject, given)
    expected = interval(low, high).removeprefix("a ").replace("number", "numbers")
    with np.errstate(invalid="ignore"):
        right = (np.abs(numbers) <= LARGEST_NUMBER) & (numbers >= low) & (numbers <= high)
    refuse_rows(
        subject,
        ~(right | (np.isnan(numbers) & missing)),
        expected=expected,
        found=numbers,
        advice=advice,
    )
    return numbers


def table_of_numbers(subject: str, values: Any, names: Sequence[str] = ()) -> NDArray[np.float64]:
    """Return a table of finite numbers as float64 of shape (n, k).

    Parameters
    ----------
    subject : str
        Name of the argument, for errors.
    values : array_like of shape (n, k), float
        Numbers. With ``names``, columns of a DataFrame are taken by name, unless they only count from 0.
    names : sequence of str
        Names of the k columns, if they have any; spaces and underscores, and a first ``p_``, are the same.

    Raises
    ------
    InputError
        If the shape is wrong, a column is missing, or an entry is no finite number; it names the first row.

    Examples
    --------
    >>> table_of_numbers("p", pd.DataFrame({"b": [1.0], "a": [2.0]}), names=("a", "b")).tolist()
    [[2.0, 1.0]]
    """
    frame = _as_frame(values)
    if frame is not None:
        return _by_name(subject, frame, names)
    array = as_array(subject, values)
    if array.ndim != 2 or (names and array.shape[1] != len(names)):
        shape = f"shape (n, {len(names)})" if names else "shape (n, k)"
        raise InputError(subject, expected=shape, found=f"shape {array.shape}")
    _refuse_booleans(subject, array)
    numbers = as_numbers(subject, array.ravel()).reshape(array.shape)
    wrong = ~(np.abs(numbers) <= LARGEST_NUMBER)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            subject,
            expected="finite numbers",
            found=f"{numbers[row, column]} in column {column}",
            row=int(row),
        )
    return numbers


def table_at_rows(subject: str, values: Any, n: int, index: pd.Index | None = None) -> Any:
    """Return a table or an array with its n rows in the order of some labels.

    Raises
    ------
    InputError
        If there are not n rows, or their labels differ.
    """
    if _length(subject, values) != n:
        raise InputError(subject, expected=f"{n} rows, as the log", found=f"{_length(subject, values)} rows")
    given = index_of(values)
    order = None if given is None else row_order(subject, given, index, n)
    return values if order is None else values.iloc[order]


def same_rows(subject: str, values: Any, first: Any) -> Any:
    """Return an argument in the order of the rows of another one, by their labels if they have any.

    Parameters
    ----------
    subject : str
        Name of the argument, for errors.
    values : array_like
        Values of one row each, of one or two dimensions.
    first : array_like
        Argument that says what the rows are.

    Raises
    ------
    InputError
        If the labels differ.
    """
    labels = index_of(values)
    if labels is None or _length(subject, values) != _length(subject, first):
        return values  # its shape is checked later
    positions = aligned_values(
        subject, pd.Series(np.arange(len(labels)), index=labels), index_of(first), len(labels)
    )
    return values.iloc[positions].reset_index(drop=True)


def _as_frame(values: Any) -> pd.DataFrame | None:
    """Return a table of any library as one of pandas; None for arrays and lists."""
    if isinstance(values, pd.DataFrame):
        return values
    frame = nw.from_native(values, eager_only=True, pass_through=True)
    return frame.to_pandas() if isinstance(frame, nw.DataFrame) else None


def _by_name(subject: str, frame: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:
    columns = list(frame.columns)
    by_name = {_plain(str(column)): column for column in columns}
    wanted = columns
    if names and columns != list(range(len(names))):
        missing = [name for name in names if _plain(name) not in by_name]
        if missing or len(by_name) != len(columns):
            raise InputError(
                subject,
                expected=f"columns {', '.join(names)}",
                found=f"columns {', '.join(map(str, columns))[:80]}",
                advice="Pass .to_numpy() if the columns are in this order.",
            )
        wanted = [by_name[_plain(name)] for name in names]
    n = len(frame)
    labels = index_of(frame)
    parts = [numbers_by_row(f"{subject}, column {name}", frame[name], n, labels) for name in wanted]
    return np.stack(parts, axis=1) if parts else np.zeros((n, 0))


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").removeprefix("p ")


def _refuse_booleans(subject: str, values: NDArray) -> None:
    if values.dtype.kind == "b":
        raise InputError(
            subject,
            expected="numbers",
            found="True and False",
            advice="Convert it if they count: astype(float).",
        )


def _length(subject: str, values: Any) -> int:
    if isinstance(values, str | bytes | dict | set | frozenset) or not hasattr(values, "__len__"):
        raise InputError(subject, expected="an array with one value for each row", found=describe(values))
    try:
        return len(values)
    except TypeError:  # an array of no dimension
        raise InputError(subject, expected="shape (n,)", found=describe(values)) from None


def check_log(log: Any) -> IncentiveLog:
    """Return a log in memory, or raise :class:`~cfmtl_lib.errors.InputError` for anything else."""
    if not isinstance(log, IncentiveLog):
        raise InputError(
            "log",
            expected="an IncentiveLog",
            found=describe(log),
            advice="IncentiveLog.from_frame makes one of a table.",
        )
    return log


def labels_by_row(
    subject: str, labels: Any, n: int, index: pd.Index | None = None
) -> tuple[NDArray, NDArray[np.int64]]:
    """Assign numbers from 0 to labels (clusters, groups); return the labels and each row's number.

    Raises
    ------
    InputError
        If there is not one label a row, one is missing (None, NaN), or a Series has other rows.
    """
    given = aligned_values(subject, labels, index, n)
    refuse_rows(
        subject,
        is_missing(given),
        expected="a label in each row",
        found="a missing one",
        advice="Give rows of unknown label one of their own.",
    )
    if given.dtype == np.float16:  # pandas has no index of them
        given = given.astype(np.float64)
    return label_codes(given)
