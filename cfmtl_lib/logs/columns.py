"""Kinds of the columns of a table: what is a number, what is a category, and what is refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.checks import describe
from cfmtl_lib.errors import LogError, UnknownCategoryWarning, check_choice, refuse_rows
from cfmtl_lib.logs.alignment import LARGEST_EXACT, as_numbers, is_missing, plain_values
from cfmtl_lib.logs.tables import as_table

KINDS = ("number", "category")
UNKNOWN = ("error", "missing", "warn")
MISSING = 0
"""Code of a missing category; categories count from 1."""

FEW_LEVELS = 20
"""Texts of digits are codes up to this number of levels; more of them may be quantities."""

MOST = 0.9
"""Share of the levels of a column that decides what they look like."""

_FRACTION = re.compile(
    r"[^\w.,]*\d*[.,]\d+([eE][+-]?\d+)?[^\w.,]*"  # 12.50, -12,5 %
    r"|[^\w.,]*\d{1,3}([ .,']\d{3})+([.,]\d+)?[^\w.,]*"  # 1.234,56
)
_DIGITS = re.compile(r"[^\w.,]*\d+[^\w.,]*")
_DATE = re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}([T ].*)?")


@dataclass(frozen=True)
class Column:
    """Name and kind of one feature.

    Attributes
    ----------
    name : str
    kind : {"number", "category"}
    categories : tuple
        Categories in the order of their codes 1, 2, ...; empty for numbers.
    """

    name: str
    kind: str
    categories: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        check_choice(f"kind of column {self.name!r}", self.kind, KINDS)


def column_of(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of a table, or raise an error that lists its columns.

    Raises
    ------
    LogError
        If ``frame`` is no table, or the column is not there or there twice.
    """
    frame = as_table(frame)
    check_name("column", name)
    if name not in frame.columns:
        some = ", ".join(map(repr, frame.columns[:12]))
        more = ", ..." if frame.shape[1] > 12 else ""
        raise LogError(
            f"column {name!r}",
            expected="a column of the table",
            found="no such column",
            advice=f"It has {some}{more}.",
        )
    column = frame[name]
    if isinstance(column, pd.DataFrame):
        raise LogError(f"column {name!r}", expected="one column of this name", found=f"{column.shape[1]}")
    return column


def check_name(subject: str, name: object) -> None:
    """Refuse what cannot be the name of a column, such as the column itself.

    Raises
    ------
    LogError
        If it is neither a text nor a whole number nor a tuple of them.
    """
    if isinstance(name, bool) or not isinstance(name, str | int | np.integer | tuple):
        raise LogError(
            subject,
            expected="the name of a column",
            found=describe(name),
            advice="Put the values into the table, and name their column.",
        )


def numeric_column(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Read a column of numbers as float64, NaN where a number is missing.

    Raises
    ------
    LogError
        If the column is not there, or holds texts, dates or infinity.
    """
    return numbers_of(column_of(frame, name), name)


def numbers_of(column: pd.Series, name: str) -> NDArray[np.float64]:
    """Return a column of numbers as float64, NaN where a number is missing.

    Raises
    ------
    LogError
        If an entry is no finite number, but a text, a date, a duration or a complex number. Also if it is a
        whole number that a float cannot hold.
    """
    subject, values = f"column {name!r}", plain_values(column)
    kind = _kind(values)
    if kind == "dates":
        _refuse_dates(subject, column)
    numbers = as_numbers(subject, values, expected="finite numbers", error=LogError)
    wrong = np.isinf(numbers)
    refuse_rows(subject, wrong, expected="finite numbers", found=numbers, error=LogError)
    if kind == "whole":
        refuse_rows(
            subject,
            np.abs(numbers) >= LARGEST_EXACT,
            expected="numbers below 2**53, which floats hold exactly",
            found=values,
            advice="An id is a category: name it in categories=, or pass it as text.",
            error=LogError,
        )
    return numbers


def learnt_column(column: pd.Series, name: str, is_category: bool, *, may_be_empty: bool = False) -> Column:
    """Learn the kind and the categories of a column.

    Parameters
    ----------
    column : Series
    name : str
    is_category : bool
        Whether it is a category though it may hold whole numbers.
    may_be_empty : bool
        Whether a column without a single value is accepted.

    Raises
    ------
    LogError
        If it is neither numbers nor categories, or no value is there.
    """
    subject = f"column {name!r}"
    named = isinstance(column.dtype, pd.CategoricalDtype)
    # All levels that a pandas categorical names, also those that no row has: parts of a table agree.
    values = plain_values(column.cat.categories.to_series() if named else column)
    present = values[~is_missing(values)]
    if not len(present):
        if may_be_empty:  # of objects nothing is known but that they are missing: a category without levels
            return Column(name, "number" if values.dtype.kind in "biuf" and not is_category else "category")
        raise LogError(subject, expected="some value", found="missing values only")
    kind = _kind(present)
    if kind == "dates":
        _refuse_dates(subject, column)
    if kind == "texts":
        levels = sorted(set(present.tolist()))
        if not (is_category or named):
            _refuse_quantities(subject, levels)
        return Column(name, "category", tuple(levels))
    if kind == "other":
        _refuse_mixture(subject, column, present)
    if kind != "booleans" and (is_category or named):
        return Column(name, "category", _whole_levels(subject, column, present))
    if not named:
        numbers_of(column, name)
    return Column(name, "number")


def encoded_column(column: pd.Series, known: Column, unknown: str = "error") -> NDArray[np.float64]:
    """Return the numbers of a column, or the codes of its categories.

    Parameters
    ----------
    column : Series
    known : Column
    unknown : {"error", "missing", "warn"}
        Treatment of other categories; see :meth:`~cfmtl_lib.logs.encoding.FrameEncoder.encode`.

    Raises
    ------
    LogError
        If an entry is no number, or no category that is known.
    """
    if known.kind == "number":
        return numbers_of(column, known.name)
    subject = f"column {known.name!r}"
    values = plain_values(column)
    if _kind(values) == "fractions":
        refuse_lost_digits(subject, values)
    objects = values.astype(object)
    if _kind(values) == "other":
        plain = [value if isinstance(value, Hashable) else repr(value) for value in objects]
        objects = np.array([*plain, None], dtype=object)[:-1]  # beside None, numpy keeps them apart
    codes = pd.Index(known.categories, dtype=object).get_indexer(pd.Index(objects, dtype=object)) + 1
    missing = is_missing(objects)
    codes[missing] = MISSING
    others = ~missing & (codes == MISSING)
    if unknown == "warn" and others.any():
        warnings.warn(
            f"{subject}: {np.count_nonzero(others):,} of {len(others):,} rows have a category that the log "
            f"did not have, {objects[others][0]!r} for one. They count as missing.",
            UnknownCategoryWarning,
            stacklevel=2,
        )
    refuse_rows(
        subject,
        others & (unknown == "error"),
        expected=f"one of the {len(known.categories)} categories that the log had",
        found=objects,
        advice="Map it to one of them, or to a missing value.",
        error=LogError,
    )
    return codes.astype(np.float64)


def _kind(values: NDArray) -> str:
    """Name what values are: booleans, whole, fractions, decimals, texts, dates or other."""
    kinds = {"b": "booleans", "i": "whole", "u": "whole", "f": "fractions", "M": "dates", "m": "dates"}
    if values.dtype.kind != "O":
        return "texts" if values.dtype.kind in "UT" else kinds.get(values.dtype.kind, "other")
    return _INFERRED.get(pd.api.types.infer_dtype(values, skipna=True), "") or _kind_of_objects(values)


_INFERRED = {
    "boolean": "booleans",
    "integer": "whole",
    "floating": "fractions",
    "mixed-integer-float": "fractions",
    "decimal": "decimals",
    "string": "texts",
    "datetime": "dates",
    "datetime64": "dates",
    "date": "dates",
    "time": "dates",
    "timedelta": "dates",
    "timedelta64": "dates",
    "period": "dates",
}


def _kind_of_objects(values: NDArray) -> str:
    present = values[~is_missing(values)]
    if all(isinstance(value, Real | Decimal) for value in present):
        return "decimals"
    return "other"


def _whole_levels(subject: str, column: pd.Series, present: NDArray) -> tuple[int, ...]:
    refuse_lost_digits(subject, present)
    different = pd.unique(present)
    if any(value % 1 != 0 for value in different):
        raise LogError(subject, expected="whole numbers or texts, as it is a category", found="fractions")
    return tuple(sorted({int(value) for value in different}))


def refuse_lost_digits(subject: str, values: NDArray) -> None:
    """Refuse ids in floats that cannot hold all their digits.

    Raises
    ------
    LogError
        If a float is 2**53 or more.
    """
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):
            lost = np.abs(values) >= LARGEST_EXACT
    elif values.dtype.kind == "O":
        lost = np.array([isinstance(v, float) and abs(v) >= LARGEST_EXACT for v in values], dtype=bool)
    else:
        return
    refuse_rows(
        subject,
        lost,
        expected="ids with all their digits",
        found="a float of 2**53 or more, which has lost some",
        advice="Read the column as whole numbers (dtype 'Int64') or as text.",
        error=LogError,
    )


def _refuse_dates(subject: str, column: pd.Series) -> NoReturn:
    first = column.dropna()
    raise LogError(
        subject,
        expected="numbers, booleans, or texts (categories)",
        found=f"dtype {column.dtype}" + (f", first value {first.iloc[0]!r}" if len(first) else ""),
        advice="Turn dates into numbers as of the assignment (days since the last purchase), and other codes "
        "into texts.",
    )


def _refuse_mixture(subject: str, column: pd.Series, present: NDArray) -> NoReturn:
    kinds = sorted({type(value).__name__ for value in present.tolist()})
    mixed = len(kinds) > 1 and "str" in kinds
    raise LogError(
        subject,
        expected="numbers, booleans, or texts (categories)",
        found=f"{' and '.join(kinds)} in one column"
        if mixed
        else f"dtype {column.dtype}, first value {present[0]!r}",
        advice="Read codes as texts everywhere (dtype=str keeps '01' and '1' apart), quantities as numbers."
        if mixed
        else "Turn dates into numbers as of the assignment (days since the last purchase), and other codes "
        "into texts.",
    )


def _refuse_quantities(subject: str, levels: list[str]) -> None:
    """Refuse texts that look like numbers or dates, whose every value would be a category of its own."""
    written = [level.strip() for level in levels if level.strip()]
    if sum(_DATE.fullmatch(level) is not None for level in written) > MOST * len(written):
        raise LogError(
            subject,
            expected="numbers, booleans, or texts (categories)",
            found=f"{len(levels)} texts that look like dates, {levels[0]!r} for one",
            advice="Turn dates into numbers as of the assignment (days since the last purchase).",
        )
    fractions = [level for level in written if _FRACTION.fullmatch(level)]
    digits = [level for level in written if _DIGITS.fullmatch(level)]
    share = MOST if len(written) > FEW_LEVELS else 1 - 1e-9
    if (fractions or len(written) > FEW_LEVELS) and len(fractions) + len(digits) > share * len(written):
        raise LogError(
            subject,
            expected="numbers, or texts (categories)",
            found=f"{len(levels)} texts that look like numbers, {(fractions or levels)[0]!r} for one",
            advice="Convert quantities: pandas.to_numeric(column.str.replace(',', '.')) for decimal commas. "
            "If they are codes, say so: name the column in categories=, or column.astype('category').",
        )
