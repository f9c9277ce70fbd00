"""Entries of a ratings table: ids that keep every digit, and ratings that are finite numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.checks import describe
from cfmtl_lib.datasets.tables.columns import ADVICE
from cfmtl_lib.errors import RatingsError

_MISSING_WORDS = frozenset({"nan", "null", "none", "na", "n/a", "<na>", r"\n", "nil"})
_WHOLE = re.compile(r"0|-?[1-9][0-9]*")
_WHOLE_AS_FLOAT = re.compile(r"(0|-?[1-9][0-9]*)\.0+")
_SCIENTIFIC = re.compile(r"[0-9]\.[0-9]+[eE]\+?[0-9]+")
_MOST_EXACT, _MOST_EXACT_SINGLE = 2**53, 2**24


def numbers(series: pd.Series, subject: str) -> NDArray[np.float64]:
    """Return the column as finite float64, or raise at the first entry that is missing or no number."""
    if pd.api.types.is_datetime64_any_dtype(series.dtype) or pd.api.types.is_timedelta64_dtype(series.dtype):
        raise RatingsError(subject, expected="numbers", found=f"{series.dtype}", advice=ADVICE)
    if pd.api.types.is_complex_dtype(series.dtype):
        raise RatingsError(subject, expected="numbers", found=f"{series.dtype}")
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.cat.categories.dtype)
    try:
        values = np.asarray(
            pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        )
    except (OverflowError, TypeError, ValueError) as error:
        raise RatingsError(subject, expected="finite numbers", found=f"{series.dtype}: {error}") from error
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        row = int(wrong[0])
        entry = series.iloc[row]
        found = "a missing value" if values[row] != values[row] and _is_missing(entry) else describe(entry)
        comma = isinstance(entry, str) and re.fullmatch(r"\s*-?[0-9]+,[0-9]+\s*", entry)
        advice = "If the comma is that of a decimal, pass decimal=','." if comma else ""
        raise RatingsError(subject, expected="a finite number", found=found, row=row, advice=advice)
    return values


def _is_missing(entry: object) -> bool:
    return entry is None or entry is pd.NA or (isinstance(entry, float | np.floating) and entry != entry)


def refuse_times(values: NDArray[np.float64], subject: str) -> None:
    """Raise if numbers that were taken for ratings without being named are dates or times.

    Raises
    ------
    RatingsError
        If all of them are seconds since 1970 (or fractions of these), or dates such as 20240131.
    """
    whole = bool(np.all(values == np.rint(values)))
    day, month = values % 100, values // 100 % 100
    dates = (values > 1900_00_00) & (values < 2101_00_00) & (day >= 1) & (day <= 31)
    dates &= (month >= 1) & (month <= 12)
    if whole and bool(np.all(dates) or np.all(values >= 1e8)):
        raise RatingsError(
            subject,
            expected="ratings",
            found=f"{values[0]:.0f}, which looks like a date or a time",
            row=0,
            advice="Say which columns they are, by names or by positions from 0: columns=(0, 1, 3).",
        )


def id_labels(series: pd.Series, subject: str) -> pd.Series:
    """Return ids as int64, uint64 or texts, such that two ids are equal only if they were written alike.

    Whole numbers stay whole numbers, and texts such as "007" stay texts. Floats are whole numbers
    only where none can have lost a digit.

    Raises
    ------
    RatingsError
        If an id is missing, negative, a fraction, a date, or may have lost digits.

    Examples
    --------
    >>> id_labels(pd.Series(["1", "10", "2"]), "user").tolist()
    [1, 10, 2]
    >>> id_labels(pd.Series(["1", "01"]), "user").tolist()
    ['1', '01']
    """
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.cat.categories.dtype)
    missing = np.flatnonzero(series.isna().to_numpy())
    if missing.size:
        raise RatingsError(subject, expected="an id", found="a missing value", row=int(missing[0]))
    kind = series.dtype
    if pd.api.types.is_bool_dtype(kind):
        raise RatingsError(subject, expected="whole numbers or texts as ids", found=f"dtype {kind}")
    if pd.api.types.is_integer_dtype(kind):
        values = series.to_numpy()
        labels = values if values.dtype.kind in "iu" else series.to_numpy(dtype=_numpy_type(series))
        return _not_negative(pd.Series(labels), subject)
    if pd.api.types.is_float_dtype(kind):
        return _not_negative(_of_floats(series, subject), subject)
    try:
        codes, uniques = pd.factorize(series.astype(object), sort=False)
    except TypeError as error:  # lists and the like
        raise RatingsError(
            subject, expected="whole numbers or texts as ids", found=describe(series.iloc[0]), row=0
        ) from error
    labels = _of_objects(list(uniques), codes, subject)
    return _not_negative(pd.Series(labels[codes]), subject)


def _numpy_type(series: pd.Series) -> type:
    return np.uint64 if str(series.dtype).lower().startswith("uint") else np.int64


def _of_floats(series: pd.Series, subject: str) -> pd.Series:
    values = series.to_numpy(dtype=np.float64)
    single = "32" in str(series.dtype) or "16" in str(series.dtype)
    most = _MOST_EXACT_SINGLE if single else _MOST_EXACT
    for wrong, expected in (
        (~np.isfinite(values) | (values != np.rint(values)), "whole numbers or texts as ids"),
        (
            np.abs(values) >= most,
            f"ids as integers or texts: {series.dtype} holds all whole numbers only below {most}",
        ),
    ):
        rows = np.flatnonzero(wrong)
        if rows.size:
            row = int(rows[0])
            raise RatingsError(subject, expected=expected, found=repr(float(values[row])), row=row)
    return pd.Series(values.astype(np.int64))


def _of_objects(uniques: list[Any], codes: NDArray[np.intp], subject: str) -> NDArray[Any]:
    """Convert the different ids of a column; ``codes`` tells the rows of each."""

    def refuse(place: int, expected: str, advice: str = "") -> RatingsError:
        row = int(np.flatnonzero(codes == place)[0])
        return RatingsError(
            subject, expected=expected, found=describe(uniques[place]), row=row, advice=advice
        )

    kinds = [isinstance(value, str) for value in uniques]
    if not all(kinds):
        whole = [_as_int(value) for value in uniques]
        if any(kinds) or None in whole:
            odd = kinds.index(not kinds[0]) if any(kinds) else whole.index(None)
            mixed = "Convert them on reading, e.g. dtype=str: 1 and '1' may be one id or two."
            raise refuse(odd, "whole numbers only, or texts only, as ids", mixed if any(kinds) else "")
        return _fitting(np.array(whole, dtype=object))
    texts = [text.strip() for text in uniques]
    if "" in texts:
        raise refuse(texts.index(""), "an id")
    is_whole = [bool(_WHOLE.fullmatch(text)) for text in texts]
    words = [text.casefold() in _MISSING_WORDS for text in texts]
    if all(a or b for a, b in zip(is_whole, words, strict=True)) and any(is_whole) and any(words):
        raise refuse(
            words.index(True),
            "an id",
            "Among whole numbers this is probably a missing value: drop these rows first.",
        )
    for place, text in enumerate(texts):
        if _SCIENTIFIC.fullmatch(text):
            raise refuse(place, "ids with all their digits", "Store ids as texts: spreadsheets shorten them.")
    if all(is_whole):
        return _fitting(np.array([int(text) for text in texts], dtype=object))
    if all(_WHOLE_AS_FLOAT.fullmatch(text) for text in texts):
        values = [int(text.split(".")[0]) for text in texts]
        for place, value in enumerate(values):
            if abs(value) >= _MOST_EXACT:
                raise refuse(place, "ids as integers or texts: floats hold whole numbers only below 2^53")
        return np.array(values, dtype=np.int64)
    return np.array(texts)


def _as_int(value: object) -> int | None:
    """Return a whole number of any type as an int; None if it may have lost digits."""
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, int | np.integer):
        return int(value)
    try:
        whole = int(value)  # type: ignore[call-overload]
        exact = whole == value and not (isinstance(value, float) and abs(value) >= _MOST_EXACT)
    except (TypeError, ValueError, OverflowError):
        return None
    return whole if exact else None


def _fitting(values: NDArray[Any]) -> NDArray[Any]:
    """Store Python integers as int64 or uint64, or as texts if they are too long for both."""
    low, high = min(values), max(values)
    for kind in (np.int64, np.uint64):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(str)


def _not_negative(labels: pd.Series, subject: str) -> pd.Series:
    if pd.api.types.is_numeric_dtype(labels.dtype):
        negative = np.flatnonzero((labels < 0).to_numpy())
        if negative.size:
            row = int(negative[0])
            raise RatingsError(
                subject,
                expected="ids >= 0",
                found=str(labels.iloc[row]),
                row=row,
                advice="Negative ids often stand for missing values: drop these rows, or use text ids.",
            )
    return labels


def check_ids(name: str, ids: ArrayLike, count: int) -> NDArray[np.int64]:
    """Return ids from 0 to ``count`` - 1 as int64, or raise RatingsError."""
    values = np.asarray(ids)
    if values.ndim != 1 or (values.dtype.kind not in "iu" and values.size):
        raise RatingsError(
            name, expected="integers of shape (n,)", found=f"{values.dtype} of shape {values.shape}"
        )
    wrong = np.flatnonzero((values < 0) | (values >= count)) if values.size else values
    if wrong.size:
        row = int(wrong[0])
        raise RatingsError(name, expected=f"ids from 0 to {count - 1}", found=str(values[row]), row=row)
    return values.astype(np.int64)


def check_rating(rating: ArrayLike) -> NDArray[np.float64]:
    """Return finite ratings as float64, or raise RatingsError."""
    values = np.asarray(rating)
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise RatingsError(
            "rating", expected="numbers of shape (n,)", found=f"{values.dtype} of shape {values.shape}"
        )
    values = values.astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        row = int(wrong[0])
        raise RatingsError("rating", expected="finite numbers", found=str(values[row]), row=row)
    return values
