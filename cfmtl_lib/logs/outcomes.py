"""Checks of the outcomes of a log: what is 0/1, what has to be recoded, and what a missing one means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import LogError, refuse_rows
from cfmtl_lib.logs.alignment import aligned_values, as_array, is_missing, plain_values, row_order
from cfmtl_lib.logs.columns import column_of
from cfmtl_lib.logs.tables import as_table, is_table

MISSING_COLLECTED = ("error", "untreated")
MISSING = "a missing value"


def checked_binary(
    name: str, value: Any, n: int, index: pd.Index | None = None, untreated: NDArray[np.bool_] | None = None
) -> NDArray[np.int8]:
    """Return a column of n 0/1 values as int8, in the order of the labels of the log.

    Parameters
    ----------
    name : str
    value : array_like of shape (n,)
    n : int
    index : pandas.Index, optional
    untreated : ndarray of shape (n,), bool, optional
        Rows where a missing value counts as 0.
    """
    return binary_values(name, aligned_values(name, value, index, n, error=LogError), untreated)


def binary_column(
    frame: pd.DataFrame, name: str, untreated: NDArray[np.bool_] | None = None
) -> NDArray[np.int8]:
    """Read a column of 0/1 of a table as int8; errors name the column."""
    return binary_values(f"column {name!r}", plain_values(column_of(frame, name)), untreated)


def binary_values(
    subject: str, values: NDArray, untreated: NDArray[np.bool_] | None = None
) -> NDArray[np.int8]:
    """Return values that are all 0 or 1 as int8; refuse labels, and say how to recode them.

    Parameters
    ----------
    subject : str
    values : ndarray of shape (n,)
    untreated : ndarray of shape (n,), bool, optional
        Rows where a missing value counts as 0.
    """
    missing = is_missing(values)
    if untreated is not None and (missing & untreated).any():
        values = np.where(missing & untreated, 0, values)
        missing = missing & ~untreated
    wrong = ~np.isin(values, (0, 1)) if values.dtype.kind in "biuf" else _not_binary(values)
    if missing.any() and not (wrong & ~missing).any():
        raise LogError(subject, expected="0 or 1", found=MISSING, row=int(np.flatnonzero(missing)[0]))
    refuse_rows(
        subject,
        wrong & ~missing,
        expected="0 or 1",
        found=values,
        advice=_recoding(values[~missing]) if wrong.any() else "",
        error=LogError,
    )
    return values.astype(np.int8)


def _not_binary(values: NDArray) -> NDArray[np.bool_]:
    numbers = (bool, int, float, np.bool_, np.number)
    objects = values.tolist() if values.dtype.kind == "O" else [None] * len(values)
    return np.array(
        [
            not ((isinstance(value, numbers) or type(value).__name__ == "Decimal") and value in (0, 1))
            for value in objects
        ],
        dtype=bool,
    )


def _recoding(values: NDArray) -> str:
    try:
        different = pd.unique(values[:100_000])
    except TypeError:  # lists and the like
        different = values[:0]
    if len(different) == 2:
        low, high = (repr(v) for v in sorted(different.tolist(), key=lambda v: (type(v).__name__, str(v))))
        return f"It holds {low} and {high}. Recode it: (values == {high}).astype(int), if {high} means yes."
    if values.dtype.kind in "iuf" and len(different) > 2:
        return "Amounts are no outcome here: pass (values > 0).astype(int) for whether there was any."
    return "Recode it: (values == YES).astype(int), with the value that means yes."


def refuse_collected_untreated(
    t: NDArray[np.int8], c: NDArray[np.int8], subject: str = "c", treatment: str = "t"
) -> None:
    """Refuse rows that collected what was not given.

    Raises
    ------
    LogError
        If there is one; it names the first.
    """
    refuse_rows(
        subject,
        (c == 1) & (t == 0),
        expected=f"0 wherever {treatment} is 0",
        found="1",
        advice="Nothing can be collected that was not given: check how "
        + ("t and c" if subject == "c" else "the two")
        + " were joined.",
        error=LogError,
    )


def collected_values(
    subject: str, values: NDArray, t: NDArray[np.int8], missing_collected: str
) -> NDArray[np.int8]:
    """Return the incentives collected as 0/1, with the rule for missing ones.

    Parameters
    ----------
    subject : str
    values : ndarray of shape (n,)
    t : ndarray of shape (n,), int8
    missing_collected : {"error", "untreated"}
        "untreated" reads a missing value as 0 where t is 0.
    """
    untreated = t == 0 if missing_collected == "untreated" else None
    try:
        return binary_values(subject, values, untreated)
    except LogError as error:
        missing = is_missing(values)
        if error.found != MISSING or (missing & (t == 1)).any():
            raise
        raise LogError(
            subject,
            expected=error.expected,
            found=error.found,
            row=error.row,
            advice="Rows without an incentive collected none: pass missing_collected='untreated' to read a "
            "missing value there as 0.",
        ) from None


def outcome_columns(
    y: ArrayLike | pd.DataFrame | None, index: pd.Index | None = None
) -> tuple[NDArray, NDArray, NDArray]:
    """Split a y of shape (n, 3) into incentive given, collected and converted.

    A table whose labels are those of x (``index``) in another order is brought into theirs. Its columns are
    taken by name if they are called t, c, y or treatment, collected, converted.
    """
    columns: list[NDArray] = []
    if y is not None and is_table(y):
        table = as_table(y, "y")
        if index is not None and isinstance(y, pd.DataFrame) and len(y) == len(index):
            order = row_order("y", y.index, index, len(index), error=LogError)
            table = table if order is None else table.iloc[order]
        known = [n for n in (("t", "c", "y"), ("treatment", "collected", "converted")) if {*n} == {*table}]
        table = table[list(known[0])] if known else table
        columns, shape = [plain_values(table.iloc[:, k]) for k in range(table.shape[1])], table.shape
    elif y is not None:
        outcomes = as_array("y", y, LogError)
        columns, shape = list(outcomes.T) if outcomes.ndim == 2 else [], outcomes.shape
    if y is None or len(columns) != 3:
        raise LogError(
            "y",
            expected="shape (n, 3): incentive given, collected, converted",
            found="none" if y is None else f"shape {shape}",
            advice="Pass an IncentiveLog alone, or x and y.",
        )
    return columns[0], columns[1], columns[2]


def refuse_double_roles(x: Any, outcomes: Any) -> None:
    """Refuse a table of features that has a column of the outcomes too.

    Parameters
    ----------
    x : array_like or DataFrame
    outcomes : DataFrame, or mapping of str to array_like
        Outcomes with names: a table, or Series by their roles.

    Raises
    ------
    LogError
        If a feature has the name of an outcome.
    """
    if not is_table(x):
        return
    if isinstance(outcomes, dict):
        names = {getattr(column, "name", None) for column in outcomes.values()} - {None}
    else:
        names = set(as_table(outcomes, "y").columns) if is_table(outcomes) else set()
    both = [name for name in as_table(x).columns if name in names]
    if both:
        raise LogError(
            "x",
            expected="columns known before the assignment",
            found=f"{both[0]!r}, which is an outcome too",
            advice="A feature that the assignment can change makes every estimate wrong.",
        )


def refuse_shared_columns(
    roles: Mapping[str, str], given: Mapping[str, str], features: Sequence[str]
) -> None:
    """Refuse a column of a table that has two roles.

    Parameters
    ----------
    roles : mapping of str to str
        Columns of what the assignment and the unit did, by role.
    given : mapping of str to str
        The same with the other columns that are named.
    features : sequence of str

    Raises
    ------
    LogError
        If an outcome is a feature, or has another role too.
    """
    after = dict(roles) | {role: name for role, name in given.items() if role == "outcome"}
    for role, name in after.items():
        if name in features:
            raise LogError(
                "features",
                expected="columns known before the assignment",
                found=f"{name!r}, the column of {role}",
                advice="A feature that the assignment can change makes every estimate wrong.",
            )
        others = [other for other, taken in given.items() if other != role and taken == name]
        if others:
            raise LogError(
                role, expected="a column of its own", found=f"{name!r}, the column of {others[0]} too"
            )
