"""Encoding of tables of numbers and categories as float features, the same at fit and at prediction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, TypeGuard

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib import checks
from cfmtl_lib.errors import LogError, check_choice, refuse_rows
from cfmtl_lib.logs.alignment import as_array, as_numbers, plain_values
from cfmtl_lib.logs.columns import (
    UNKNOWN,
    Column,
    check_name,
    column_of,
    encoded_column,
    learnt_column,
    numbers_of,
)
from cfmtl_lib.logs.tables import as_table, is_table

FeatureRows: TypeAlias = "ArrayLike | pd.DataFrame | tuple[ArrayLike, ArrayLike]"
"""Types that features can have; see :meth:`FrameEncoder.matrix`."""

LARGEST_SPACE = 10**7
"""Largest number of users or items beside features, each of them a category by name."""


class EncodedRows(np.ndarray):
    """Array of encoded rows that knows its encoder, as no array of codes can be told from raw numbers.

    Rows that are chosen, copied or pickled know it too. Whatever is computed from them does not.

    Attributes
    ----------
    encoder : FrameEncoder or None
        Encoder that made the rows.
    """

    encoder: FrameEncoder | None

    @classmethod
    def of(cls, matrix: NDArray[np.float64], encoder: FrameEncoder) -> Self:
        """Mark a matrix, without copying it, as made by an encoder."""
        rows = np.asarray(matrix).view(cls)
        rows.encoder = encoder
        return rows

    def __array_finalize__(self, source: Any) -> None:
        self.encoder = None

    def __getitem__(self, key: Any) -> Any:
        chosen = super().__getitem__(key)
        if isinstance(chosen, EncodedRows):
            if isinstance(key, tuple) or chosen.ndim != 2:  # columns may be other ones
                return np.asarray(chosen)
            chosen.encoder = self.encoder
        return chosen

    def __array_wrap__(self, array: NDArray, context: Any = None, return_scalar: bool = False) -> Any:
        plain = np.asarray(array)
        return plain[()] if return_scalar else plain

    def copy(self, order: Any = "C") -> Self:
        """Copy the rows."""
        return type(self).of(np.asarray(self).copy(order), self.encoder)  # type: ignore[arg-type]

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Self:
        return self.copy()

    def __reduce__(self) -> tuple:
        return type(self).of, (np.asarray(self), self.encoder)


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
    def learn(
        cls,
        frame: pd.DataFrame,
        features: Sequence[str],
        categories: Collection[str] = (),
        *,
        may_be_empty: bool = False,
    ) -> Self:
        """Learn kinds and categories from a table.

        Parameters
        ----------
        frame : DataFrame
            Table with a row for each unit, of pandas, polars, pyarrow or another library.
        features : sequence of str
            Names of its columns, in the order of the features.
        categories : collection of str
            Names of features that are categories though they hold whole numbers, or texts that look like
            numbers: ids, codes of shops.
        may_be_empty : bool
            Whether a column without a single value is accepted, as in a fold of a search.

        Raises
        ------
        LogError
            If a column is not there, occurs twice, is neither numbers nor categories, or is all missing.
        """
        frame = as_table(frame)
        features, categories = names_of("features", features), names_of("categories", categories)
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
        return cls(
            tuple(
                learnt_column(column_of(frame, name), name, name in categories, may_be_empty=may_be_empty)
                for name in features
            )
        )

    @classmethod
    def of_pairs(cls, n_users: int, n_items: int, n_numbers: int | Sequence[str]) -> Self:
        """Make the encoder of user and item ids with numbers: two categories first, then the numbers.

        Parameters
        ----------
        n_users, n_items : int
            Sizes of the id spaces.
        n_numbers : int or sequence of str
            Number of columns of numbers, or their names.

        Examples
        --------
        >>> encoder = FrameEncoder.of_pairs(n_users=3, n_items=2, n_numbers=1)
        >>> encoder.matrix(([[0, 1], [2, 0]], [[0.5], [0.25]])).tolist()
        [[1.0, 2.0, 0.5], [3.0, 1.0, 0.25]]
        """
        sizes = {"user": n_users, "item": n_items}
        ids = tuple(
            Column(name, "category", tuple(range(checks.check_count(size, f"n_{name}s", most=LARGEST_SPACE))))
            for name, size in sizes.items()
        )
        if isinstance(n_numbers, list | tuple):
            names = list(n_numbers)
        else:
            names = [
                f"feature_{k}"
                for k in range(checks.check_count(n_numbers, "n_numbers", least=0, most=LARGEST_SPACE))
            ]
        return cls(ids + tuple(Column(name, "number") for name in names))

    def matrix(self, x: FeatureRows, unknown: str = "error") -> NDArray[np.float64]:
        """Encode rows of any form: a table, (pairs, numbers), or rows that this encoder made.

        Parameters
        ----------
        x : DataFrame, (pairs, numbers), or array_like of shape (n, number of columns)
            Columns of a table are found by name. A bare array is taken only if all columns are numbers,
            for raw values of categories cannot be told from codes.
        unknown : {"error", "missing", "warn"}
            Treatment of categories that the encoder does not know; see :meth:`encode`.

        Raises
        ------
        LogError
            If :meth:`encode` or :meth:`check` raises it, or an array may hold raw categories.
        """
        if is_table(x):
            return self.encode(x, unknown)  # type: ignore[arg-type]
        if is_pairs_with_numbers(x):
            return self.check(self._of_pairs(*x))
        made_by = getattr(x, "encoder", None)
        if made_by is not None and made_by != self:
            raise LogError(
                "x",
                expected="rows that the encoder of the fitted log has made",
                found="rows of another encoder",
                advice="Encode them by model.schema_.encoder.encode(table).",
            )
        if made_by is None and self.is_category.any():
            names = [column.name for column in self.columns if column.kind == "category"]
            raise LogError(
                "x",
                expected=f"a table, as {', '.join(map(repr, names[:3]))} are categories",
                found=f"{checks.describe(x)}, whose numbers may be codes or not",
                advice="Pass the table itself; or the rows that model.schema_.encoder.encode(table) returns.",
            )
        return self.check(x)  # type: ignore[arg-type]

    def _of_pairs(self, pairs: Any, numbers: Any) -> NDArray[np.float64]:
        if is_table(numbers):
            table = as_table(numbers)
            columns = [numbers_of(column_of(table, c.name), c.name) for c in self.columns[2:]]
            numbers = np.column_stack([np.empty((len(table), 0)), *columns])
        ids, values = pair_columns(pairs), _as_floats(numbers)
        if ids.dtype.kind not in "iu" or ids.ndim != 2 or ids.shape[1] != 2 or values.ndim != 2:
            raise LogError(
                "x",
                expected="(integer pairs of shape (n, 2), floats of shape (n, p))",
                found=f"({ids.dtype} of shape {ids.shape}, shape {values.shape})",
            )
        refuse_rows("x", (ids < 0).any(axis=1), expected="ids >= 0", found=ids.min(axis=1), error=LogError)
        if len(ids) != len(values):
            raise LogError("x", expected=f"{len(ids)} rows of numbers", found=str(len(values)))
        return np.column_stack([ids.astype(np.float64) + 1, values])

    def encode(self, frame: pd.DataFrame, unknown: str = "error") -> NDArray[np.float64]:
        """Encode the rows of a table; shape (n, number of columns), float64, NaN for a missing number.

        Parameters
        ----------
        frame : DataFrame
            Table of any library with the columns of the encoder, in any order; others are ignored.
        unknown : {"error", "missing", "warn"}
            Treatment of categories that the encoder does not know. "warn" takes them as missing with an
            :class:`~cfmtl_lib.errors.UnknownCategoryWarning`.

        Raises
        ------
        LogError
            If a column is missing, or holds texts or dates among numbers, infinity, or an unknown category.
        """
        frame = as_table(frame)
        if len(frame) == 0:
            raise LogError("frame", expected="at least one row", found="none")
        check_choice("unknown", unknown, UNKNOWN)
        codes = [encoded_column(column_of(frame, column.name), column, unknown) for column in self.columns]
        return EncodedRows.of(np.column_stack(codes), self)

    def check(self, x: ArrayLike) -> NDArray[np.float64]:
        """Check shape, codes and numbers of features that are encoded already, and return them.

        Raises
        ------
        LogError
            If this encoder cannot have made them; it names the first such column and row.
        """
        matrix = _as_floats(x)
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
        return EncodedRows.of(np.ascontiguousarray(matrix), self)

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


def is_pairs_with_numbers(x: object) -> TypeGuard[tuple[ArrayLike, ArrayLike]]:
    """Tell whether x is (pairs, numbers), and not a tuple of rows."""
    if not isinstance(x, tuple) or len(x) != 2:
        return False
    return is_table(x[0]) or as_array("x", x[0], LogError).ndim == 2


def pair_columns(pairs: Any) -> NDArray:
    """Return pairs as an array; of a table, its columns "user" and "item" by name.

    Raises
    ------
    LogError
        If a table has no such columns.
    """
    if not is_table(pairs):
        return as_array("x", pairs, LogError)
    table = as_table(pairs)
    if not {"user", "item"} <= set(table.columns):
        raise LogError(
            "x",
            expected="a table with the columns 'user' and 'item'",
            found=f"the columns {list(table.columns[:6])}",
            advice="Rename them, or pass an array of shape (n, 2): users, then items.",
        )
    columns = []
    for name in ("user", "item"):
        values = plain_values(column_of(table, name))
        if values.dtype.kind not in "iu":
            raise LogError(
                f"column {name!r}",
                expected="whole numbers from 0, none missing",
                found=f"dtype {column_of(table, name).dtype}",
                advice="Number ids by pandas.factorize.",
            )
        columns.append(values)
    return np.stack(columns, axis=1)


def names_of(subject: str, names: Any) -> list:
    """Return names of columns as a list; refuse a single text, whose letters would be names.

    Raises
    ------
    LogError
        If it is no sequence of names.
    """
    if isinstance(names, str):
        raise LogError(
            subject, expected="a list of names", found=f"the text {names!r}", advice=f"Pass [{names!r}]."
        )
    if not isinstance(names, Collection) or is_table(names) or getattr(names, "shape", None) == ():
        raise LogError(subject, expected="a list of names", found=checks.describe(names))
    for name in names:
        check_name(subject, name)
    return list(names)


def check_encoder(encoder: object) -> None:
    """Refuse what is no encoder.

    Raises
    ------
    LogError
        If it is neither a :class:`FrameEncoder` nor None.
    """
    if encoder is not None and not isinstance(encoder, FrameEncoder):
        raise LogError("encoder", expected="the encoder of another log", found=checks.describe(encoder))


def _as_floats(x: Any) -> NDArray[np.float64]:
    values = as_array("x", x, LogError)
    return as_numbers("x", values.ravel(), error=LogError).reshape(values.shape)
