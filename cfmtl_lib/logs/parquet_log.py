"""Log of pairs in Parquet files, for fits that never hold all rows in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfmtl_lib.checks import check_count
from cfmtl_lib.errors import InputError, LogError, refuse_rows
from cfmtl_lib.logs.outcomes import checked_binary
from cfmtl_lib.logs.parquet_files import ParquetPart, open_parquet, whole_numbers
from cfmtl_lib.logs.validation import check_pairs, checked_size
from cfmtl_lib.strata import observed_cell


class LogRows(NamedTuple):
    """Rows of a log of pairs: pairs (n, 2) int64, and incentive given, collected, converted as int8."""

    x: NDArray[np.int64]
    t: NDArray[np.int8]
    c: NDArray[np.int8]
    y: NDArray[np.int8]

    @property
    def cell(self) -> NDArray[np.int8]:
        """Observed cell of each row, an index into :data:`~cfmtl_lib.strata.CELLS`; shape (n,)."""
        return observed_cell(self.t, self.c, self.y)


class _Piece(NamedTuple):
    """Row group of a file, and its number of rows by arm."""

    part: ParquetPart
    group: int
    n_by_arm: tuple[int, int]

    def rows(self, arm: int | None) -> int:
        return sum(self.n_by_arm) if arm is None else self.n_by_arm[arm]


class ParquetLog:
    """Log of user-item pairs in a folder of Parquet files (or one file), read a row group at a time.

    The constructor reads everything once, to check it as :class:`~cfmtl_lib.logs.incentive_log.IncentiveLog`
    does. A fit reads it once an epoch. Row groups are taken in random order, and ``rows_in_memory`` rows at a
    time are shuffled together. So batches are as random as that many rows are: write the files in random
    order if rows next to each other are alike.

    Parameters
    ----------
    path : str or Path
        Folder of Parquet files, a pattern such as ``"logs/part-*.parquet"``, or one file. In a folder, files
        count whose names begin with neither ``.`` nor ``_``; columns are found by name in each.
    user, item : str
        Names of columns of whole numbers from 0. Floats are refused, as they cannot hold all ids.
    treatment, collected, converted : str
        Names of columns of 0/1, without missing values.
    n_users, n_items : int, optional
        Size of the id spaces; the largest id plus one if left out.
    rows_in_memory : int
        Number of rows shuffled together, at least a batch. Memory is about 90 bytes for each, plus a row
        group. Row groups (of a million rows, as pyarrow writes them) mix only where several fit.

    Attributes
    ----------
    pair_space : (int, int)
        Number of users and of items.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    UnknownNameError
        If a file lacks a column.
    LogError
        If :class:`~cfmtl_lib.logs.incentive_log.IncentiveLog` would raise it. It names the file and the row
        there. Also if a file is damaged, or changes after it was checked.
    InputError
        If one column has two roles, or ``rows_in_memory`` is no count.

    Examples
    --------
    >>> import tempfile, pandas as pd
    >>> rows = pd.DataFrame(
    ...     {"user": [0, 1, 1], "item": [2, 0, 1], "t": [1, 0, 1], "c": [1, 0, 0], "y": [1, 1, 0]}
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows.to_parquet(folder + "/part-0.parquet")
    ...     ParquetLog(folder, treatment="t", collected="c", converted="y")
    ParquetLog(3 pairs of 2 users and 3 items in 1 row groups: 2 treated)
    """

    is_pairs = True
    encoder = None

    def __init__(
        self,
        path: str | Path,
        *,
        user: str = "user",
        item: str = "item",
        treatment: str = "treatment",
        collected: str = "collected",
        converted: str = "converted",
        n_users: int | None = None,
        n_items: int | None = None,
        rows_in_memory: int = 1 << 21,
    ) -> None:
        roles = {
            "user": user,
            "item": item,
            "treatment": treatment,
            "collected": collected,
            "converted": converted,
        }
        for role, name in roles.items():
            if not isinstance(name, str):
                raise InputError(role, expected="the name of a column", found=repr(name))
            other = next(known for known, column in roles.items() if column == name)
            if other != role:
                raise InputError(
                    f"{other}, {role}", expected="a column of its own for each", found=f"{name!r} for both"
                )
        self._columns = list(roles.values())
        self.rows_in_memory = check_count(rows_in_memory, "rows_in_memory")
        self._pieces: list[_Piece] = []
        largest = np.full(2, -1)
        for part in open_parquet(path, self._columns):
            start = 0
            for group in range(part.metadata.num_row_groups):
                rows = self._checked(part, group, start)
                start += len(rows.t)
                if len(rows.t):
                    n_treated = int(rows.t.sum())
                    self._pieces.append(_Piece(part, group, (len(rows.t) - n_treated, n_treated)))
                    largest = np.maximum(largest, rows.x.max(axis=0))
        for arm in (0, 1):
            if not self.n_rows(arm):
                raise LogError(
                    treatment,
                    expected="rows in both arms",
                    found=f"no row with {treatment} = {arm} among {self.n_rows():,}",
                    advice="Effects need treated and untreated rows.",
                )
        self.pair_space = (
            checked_size("n_users", n_users, largest[:1]),
            checked_size("n_items", n_items, largest[1:]),
        )

    def __len__(self) -> int:
        return self.n_rows()

    def __repr__(self) -> str:
        n_users, n_items = self.pair_space
        return (
            f"ParquetLog({len(self):,} pairs of {n_users:,} users and {n_items:,} items in "
            f"{len(self._pieces):,} row groups: {self.n_rows(1):,} treated)"
        )

    def n_rows(self, arm: int | None = None) -> int:
        """Count the rows of an arm, or of both."""
        return sum(piece.rows(arm) for piece in self._pieces)

    def row_groups(self) -> Iterator[LogRows]:
        """Yield all rows in the order of the files, a row group at a time."""
        for piece in self._pieces:
            yield self._read(piece)

    def source(
        self,
        target: Callable[[LogRows], NDArray],
        device: torch.device,
        *,
        arm: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> ParquetRows:
        """Make batches of user, item and a target, for :func:`cfmtl_lib.models.training.minimise`.

        Parameters
        ----------
        target : callable
            Function of some rows that returns a number for each.
        device : torch.device
            Device of the batches.
        arm : {0, 1}, optional
            Arm whose rows are used; both if left out.
        dtype : torch.dtype
            Type of the target.
        """
        return ParquetRows(self, target, device, arm, dtype)

    def _read(self, piece: _Piece) -> LogRows:
        table = piece.part.row_group(piece.group, self._columns)
        user, item = (whole_numbers(table.column(name), name) for name in self._columns[:2])
        pairs = np.stack([user.astype(np.int64), item.astype(np.int64)], axis=1)
        t, c, y = (_plain(table.column(name)).astype(np.int8) for name in self._columns[2:])
        return LogRows(pairs, t, c, y)

    def _checked(self, part: ParquetPart, group: int, start: int) -> LogRows:
        """Check a row group, whose first row is row ``start`` of its file."""
        table = part.row_group(group, self._columns)
        n, columns = table.num_rows, []
        try:
            for k, name in enumerate(self._columns):
                column = table.column(name)
                if column.null_count:
                    row = int(np.flatnonzero(column.is_null().to_numpy())[0])
                    raise LogError(
                        name,
                        expected="a value in each row",
                        found="none",
                        row=row,
                        advice="Of untreated rows, c is 0: nothing could be collected." if k == 3 else "",
                    )
                columns.append(_plain(column) if k > 1 else whole_numbers(column, name))
            for name, ids in zip(self._columns[:2], columns[:2], strict=True):
                refuse_rows(
                    name,
                    ids > np.iinfo(np.int32).max,
                    expected="ids below 2^31",
                    found=ids,
                    advice="Number them from 0, e.g. by pandas.factorize.",
                    error=LogError,
                )
            t, c, y = (
                checked_binary(name, column, n)
                for name, column in zip(self._columns[2:], columns[2:], strict=True)
            )
            not_given = np.flatnonzero((c == 1) & (t == 0))
            if not_given.size:
                raise LogError(
                    self._columns[3],
                    expected=f"0 wherever {self._columns[2]} is 0",
                    found="1",
                    row=int(not_given[0]),
                    advice="Nothing can be collected that was not given: check how the two were joined.",
                )
            pairs = np.stack([ids.astype(np.int64) for ids in columns[:2]], axis=1)
            if n:
                pairs = check_pairs(pairs, *(int(size) + 1 for size in pairs.max(axis=0)))
        except LogError as error:
            position = None if error.row is None else start + error.row
            raise LogError(
                f"{part.path.name}, {error.subject}",
                expected=error.expected,
                found=error.found,
                row=position,
                advice=error.advice,
            ) from error
        return LogRows(pairs, t, c, y)


class ParquetRows:
    """Rows of a :class:`ParquetLog` as a :class:`~cfmtl_lib.models.batches.RowSource`; see its ``source``."""

    def __init__(
        self,
        log: ParquetLog,
        target: Callable[[LogRows], NDArray],
        device: torch.device,
        arm: int | None,
        dtype: torch.dtype,
    ) -> None:
        self.log, self.target, self.device, self.arm, self.dtype = log, target, device, arm, dtype

    def __len__(self) -> int:
        return self.log.n_rows(self.arm)

    def epoch(
        self, batch_size: int, keep_last_batch: bool, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield all rows once: row groups in random order, shuffled together until memory is full."""
        waiting: list[tuple[Tensor, ...]] = []
        n_waiting = 0
        pieces, limit = self.log._pieces, max(self.log.rows_in_memory, batch_size)
        order = torch.randperm(len(pieces), generator=generator, device=generator.device).tolist()
        for position in order:
            if not pieces[position].rows(self.arm):
                continue
            if n_waiting and n_waiting + pieces[position].rows(self.arm) > limit:
                chunk, rest = self._shuffled(waiting, batch_size, generator)
                waiting, n_waiting = [rest], len(rest[0])
                if len(chunk[0]):
                    yield chunk
                del chunk  # before the next is made
            waiting.append(self._columns(self.log._read(pieces[position])))
            n_waiting += len(waiting[-1][0])
        chunk, rest = self._shuffled(waiting, batch_size, generator)
        if keep_last_batch:
            chunk = tuple(torch.cat(parts) for parts in zip(chunk, rest, strict=True))
        if len(chunk[0]):
            yield chunk

    def _columns(self, rows: LogRows) -> tuple[Tensor, ...]:
        target = self.target(rows)
        keep = slice(None) if self.arm is None else rows.t == self.arm
        return (
            torch.tensor(rows.x[keep, 0], device=self.device),
            torch.tensor(rows.x[keep, 1], device=self.device),
            torch.tensor(target[keep], dtype=self.dtype, device=self.device),
        )

    def _shuffled(
        self, waiting: list[tuple[Tensor, ...]], batch_size: int, generator: torch.Generator
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Shuffle the rows that wait, and split them into whole batches and a rest."""
        columns = [torch.cat(parts) for parts in zip(*waiting, strict=True)]
        n = len(columns[0])
        order = torch.randperm(n, generator=generator, device=generator.device)
        whole = n // batch_size * batch_size
        first, last = order[:whole], order[whole:]
        return (
            tuple(column.index_select(0, first) for column in columns),
            tuple(column.index_select(0, last) for column in columns),
        )


def _plain(column: pa.ChunkedArray) -> NDArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_boolean(kind):
        kind = pa.int8()
    elif pa.types.is_decimal(kind):
        kind = pa.float64()
    if kind != column.type:
        column = column.cast(kind)
    return column.to_numpy()
