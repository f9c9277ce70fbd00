"""Encoding of tables of numbers and categories as float features, the same at fit and at prediction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, TypeGuard

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import LogError, check_choice, refuse_rows

KINDS = ("number", "category")
UNKNOWN = ("error", "missing")
FeatureRows: TypeAlias = "ArrayLike | pd.DataFrame | tuple[ArrayLike, ArrayLike]"
"""Types that features can have; see :meth:`FrameEncoder.matrix`."""

MISSING = 0
"""Code of a missing category; categories count from 1."""


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


@dataclass(frozen=True)
class FrameEncoder:
    """Encoder of columns of a table as columns of ``IncentiveLog.x``, one float each.

    Numbers do not change; a missing number is NaN, which the models handle. A category becomes its
    code, 1, 2, ... in sorted order; a missing one becomes 0. Booleans are numbers.

    Parameters
    ----------
    columns : tuple of Column
        Columns of the table, in the order of the features.

    Examples
    --------
    >>> frame = pd.DataFrame({"age": [30, None], "city": ["Oslo", "Bergen"], "spent": [1.5, 2.0]})
    >>> encoder = FrameEncoder.learn(frame, ["age", "city"])
    >>> encoder.encode(frame).tolist()
    [[30.0, 2.0], [nan, 1.0]]
    >>> encoder.encode(pd.DataFrame({"age": [41], "city": ["Rome"]}))
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.LogError: column 'city': expected one of the 2 categories that the log had, \
found 'Rome' (first at row 0). Map it to one of them, or to a missing value.
    """

    columns: tuple[Column, ...]

    @classmethod
    def learn(cls, frame: pd.DataFrame, features: Sequence[str], categories: Collection[str] = ()) -> Self:
        """Learn kinds and categories from a table.

        Parameters
        ----------
        frame : DataFrame
            Table with a row for each unit.
        features : sequence of str
            Names of its columns, in the order of the features.
        categories : collection of str
            Names of features that are categories though they hold whole numbers: ids, codes of shops.

        Raises
        ------
        LogError
            If a column is not there, occurs twice, is neither numbers nor categories, or is all missing.
        """
        if not features:
            raise LogError("features", expected="at least one column", found="none")
        twice = [name for k, name in enumerate(features) if name in features[:k]]
        if twice:
            raise LogError("features", expected="each column once", found=f"{twice[0]!r} twice")
        not_there = [name for name in categories if name not in features]
        if not_there:
            raise LogError(
                "categories", expected=f"some of the features {list(features)}", found=repr(not_there[0])
            )
        return cls(tuple(_learnt(frame, name, name in categories) for name in features))

    @classmethod
    def of_pairs(cls, n_users: int, n_items: int, n_numbers: int) -> Self:
        """Make the encoder of user and item ids with numbers: two categories first, then the numbers.

        Examples
        --------
        >>> encoder = FrameEncoder.of_pairs(n_users=3, n_items=2, n_numbers=1)
        >>> encoder.matrix(([[0, 1], [2, 0]], [[0.5], [0.25]])).tolist()
        [[1.0, 2.0, 0.5], [3.0, 1.0, 0.25]]
        """
        ids = (
            Column("user", "category", tuple(range(n_users))),
            Column("item", "category", tuple(range(n_items))),
        )
        return cls(ids + tuple(Column(f"feature_{k}", "number") for k in range(n_numbers)))

    def matrix(self, x: FeatureRows) -> NDArray[np.float64]:
        """Encode rows of any form: a table, (pairs, numbers), or a matrix that is encoded already.

        Raises
        ------
        LogError
            If :meth:`encode` or :meth:`check` raises it.
        """
        if isinstance(x, pd.DataFrame):
            return self.encode(x)
        if is_pairs_with_numbers(x):
            pairs, numbers = np.asarray(x[0]), np.asarray(x[1], dtype=np.float64)
            if pairs.dtype.kind not in "iu" or pairs.shape[1] != 2 or numbers.ndim != 2:
                raise LogError(
                    "x",
                    expected="(integer pairs of shape (n, 2), floats of shape (n, p))",
                    found=f"({pairs.dtype} of shape {pairs.shape}, shape {numbers.shape})",
                )
            if len(pairs) != len(numbers):
                raise LogError("x", expected=f"{len(pairs)} rows of numbers", found=str(len(numbers)))
            return self.check(np.column_stack([pairs + 1, numbers]))
        return self.check(np.asarray(x))

    def encode(self, frame: pd.DataFrame, unknown: str = "error") -> NDArray[np.float64]:
        """Encode the rows of a table; shape (n, number of columns), float64, NaN for a missing number.

        Parameters
        ----------
        frame : DataFrame
            Table with the columns of the encoder, in any order; other columns are ignored.
        unknown : {"error", "missing"}
            Treatment of categories that the encoder does not know.

        Raises
        ------
        LogError
            If a column is missing, or holds texts among numbers, infinity, or an unknown category.
        """
        if len(frame) == 0:
            raise LogError("frame", expected="at least one row", found="none")
        check_choice("unknown", unknown, UNKNOWN)
        return np.column_stack(
            [_encoded(column_of(frame, column.name), column, unknown == "missing") for column in self.columns]
        )

    def check(self, x: ArrayLike) -> NDArray[np.float64]:
        """Check shape, codes and numbers of features that are encoded already, and return them.

        Raises
        ------
        LogError
            If this encoder cannot have made them; it names the first such column and row.
        """
        matrix = np.asarray(x, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[1] != len(self.columns):
            raise LogError("x", expected=f"shape (n, {len(self.columns)})", found=f"shape {matrix.shape}")
        for column, values in zip(self.columns, matrix.T, strict=True):
            if column.kind == "number":
                wrong, expected = np.isinf(values), "finite numbers, or NaN where they are missing"
            else:
                known = len(column.categories)
                wrong = ~np.isin(values, np.arange(known + 1))
                expected = f"codes 0 (missing) to {known}"
            refuse_rows(f"column {column.name!r}", wrong, expected=expected, found=values, error=LogError)
        return np.ascontiguousarray(matrix)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def is_category(self) -> NDArray[np.bool_]:
        """Mask of the columns that hold codes; shape (number of columns,)."""
        return np.array([column.kind == "category" for column in self.columns])

    def to_dict(self) -> dict[str, Any]:
        """Convert the encoder to values that JSON can hold."""
        return {
            "columns": [
                {"name": c.name, "kind": c.kind, "categories": list(c.categories)} for c in self.columns
            ]
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Rebuild an encoder from the result of :meth:`to_dict`.

        Examples
        --------
        >>> encoder = FrameEncoder((Column("city", "category", ("Bergen", "Oslo")), Column("age", "number")))
        >>> FrameEncoder.from_dict(encoder.to_dict()) == encoder
        True
        """
        return cls(tuple(Column(c["name"], c["kind"], tuple(c["categories"])) for c in stored["columns"]))


def numeric_column(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Read a column of numbers as float64, NaN where a number is missing.

    Raises
    ------
    LogError
        If the column is not there, or holds texts or infinity.
    """
    return _numbers(column_of(frame, name), name)


def column_of(frame: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of a table, or raise an error that lists its columns.

    Raises
    ------
    LogError
        If ``frame`` is no DataFrame, or the column is not there or there twice.
    """
    if not isinstance(frame, pd.DataFrame):
        raise LogError("frame", expected="a pandas DataFrame", found=type(frame).__name__)
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


def is_pairs_with_numbers(x: object) -> TypeGuard[tuple[ArrayLike, ArrayLike]]:
    """Tell whether x is (pairs, numbers), and not a tuple of rows."""
    return isinstance(x, tuple) and len(x) == 2 and np.ndim(x[0]) == 2


def _learnt(frame: pd.DataFrame, name: str, is_category: bool) -> Column:
    values = column_of(frame, name)
    present = values.dropna()
    if present.empty:
        raise LogError(f"column {name!r}", expected="some value", found="missing values only")
    present = present.infer_objects()  # numbers in a column of objects, e.g. beside a missing value
    if is_category and pd.api.types.is_numeric_dtype(present):
        if (present % 1 == 0).all():
            return Column(name, "category", tuple(sorted(int(level) for level in pd.unique(present))))
        raise LogError(
            f"column {name!r}", expected="whole numbers or texts, as it is a category", found="fractions"
        )
    if pd.api.types.is_bool_dtype(present) or pd.api.types.is_numeric_dtype(present):
        return Column(name, "number")
    if isinstance(present.dtype, pd.CategoricalDtype) or pd.api.types.is_string_dtype(present):
        # All levels that a pandas categorical names, also those that no row has: parts of a table agree.
        named = isinstance(present.dtype, pd.CategoricalDtype)
        levels = (present.cat.categories if named else pd.unique(present)).tolist()
        if all(isinstance(level, str) for level in levels):
            return Column(name, "category", tuple(sorted(levels)))
    raise LogError(
        f"column {name!r}",
        expected="numbers, booleans, or texts (categories)",
        found=f"dtype {values.dtype}, first value {present.iloc[0]!r}",
        advice="Turn dates into numbers as of the assignment (days since the last purchase), and other codes "
        "into texts.",
    )


def _encoded(values: pd.Series, column: Column, unknown_is_missing: bool) -> NDArray[np.float64]:
    if column.kind == "number":
        return _numbers(values, column.name)
    codes = pd.Index(column.categories, dtype=object).get_indexer(values.astype(object)) + 1
    unknown = np.asarray(values.notna()) & (codes == MISSING) & (not unknown_is_missing)
    shown = np.asarray(values.astype(object))
    refuse_rows(
        f"column {column.name!r}",
        unknown,
        expected=f"one of the {len(column.categories)} categories that the log had",
        found=shown,
        advice="Map it to one of them, or to a missing value.",
        error=LogError,
    )
    return codes.astype(np.float64)


def _numbers(values: pd.Series, name: str) -> NDArray[np.float64]:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    wrong = (np.isnan(numbers) & np.asarray(values.notna())) | np.isinf(numbers)
    shown = np.asarray(values.astype(object))
    refuse_rows(f"column {name!r}", wrong, expected="finite numbers", found=shown, error=LogError)
    return numbers
