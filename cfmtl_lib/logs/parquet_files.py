"""Parquet files of one table: which they are, their columns by name, and their rows in order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cfmtl_lib.errors import LogError, UnknownNameError

_MAGIC = b"PAR1"
_NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


@dataclass(frozen=True)
class ParquetPart:
    """One of the Parquet files of a table, as it was when it was opened.

    Parameters
    ----------
    path : Path
    metadata : pyarrow.parquet.FileMetaData
    schema : pyarrow.Schema
    stamp : (int, int)
        Size in bytes and time of the last change in nanoseconds.
    """

    path: Path
    metadata: pq.FileMetaData
    schema: pa.Schema
    stamp: tuple[int, int]

    @property
    def n_rows(self) -> int:
        """Number of rows of the file."""
        return self.metadata.num_rows

    def row_group(self, position: int, columns: Sequence[str]) -> pa.Table:
        """Read the named columns of one row group, in the order of the names."""
        with self._opened() as file:
            return file.read_row_group(position, columns=list(columns)).select(list(columns))

    def batches(self, rows: int, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the named columns of all rows, at most ``rows`` at a time."""
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
                yield pa.Table.from_batches([batch]).select(list(columns))

    def null_count(self, column: str) -> int | None:
        """Count the missing values of a column by the file's statistics; None if it has none."""
        place = self.schema.get_field_index(column)
        leaves = [self.metadata.row_group(k) for k in range(self.metadata.num_row_groups)]
        # Nested columns have several leaves, after which positions differ: they are not looked up.
        if self.metadata.num_columns != len(self.schema):
            return None
        counts = [group.column(place).statistics for group in leaves]
        if any(count is None or not count.has_null_count for count in counts):
            return None
        return sum(count.null_count for count in counts)

    @contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        if not self.path.is_file() or _stamp_of(self.path) != self.stamp:
            raise LogError(
                str(self.path),
                expected="the file that was checked",
                found="another one or none: it was changed, replaced or removed since",
                advice="Open it again after the last change.",
            )
        with readable(self.path), pq.ParquetFile(self.path, metadata=self.metadata) as file:
            yield file


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of pyarrow and of the operating system into a :class:`LogError` that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise LogError(
            str(path),
            expected="a complete Parquet file",
            found=f"one that cannot be read ({text})",
            advice="Write it again; of a folder with other files, pass a pattern such as 'folder/*.parquet'.",
        ) from error


def find_parquet(source: str | Path) -> list[Path]:
    """List the files that a path stands for, in the order of their names.

    Parameters
    ----------
    source : str or Path
        Path of a file, of a folder, or a pattern such as ``"scores/part-*.parquet"``. In a folder and in its
        subfolders, all files count whose names begin with neither ``.`` nor ``_``.

    Returns
    -------
    list of Path

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or no file of that pattern or in that folder.
    LogError
        If ``source`` is no path.

    Examples
    --------
    >>> find_parquet("nowhere/*.parquet")
    Traceback (most recent call last):
    ...
    FileNotFoundError: There is no file nowhere/*.parquet.
    """
    if not isinstance(source, str | os.PathLike):
        raise LogError("path", expected="a path or a pattern", found=repr(source))
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        inside = (found for found in path.rglob("*") if found.is_file())
        files = [f for f in inside if not any(p[0] in "._" for p in f.relative_to(path).parts)]
        missing = f"There is no Parquet file in the folder {path}."
    else:
        files = [Path(found) for found in glob.glob(str(path), recursive=True)]
        files = [found for found in files if found.is_file()]
        missing = f"There is no file {path}."
        if not glob.has_magic(str(path)):
            missing = f"There is no file or folder {path}."
    if not files:
        raise FileNotFoundError(missing)
    return sorted(files, key=lambda file: file.parts)


def open_parquet(source: str | Path, columns: Sequence[str]) -> list[ParquetPart]:
    """Open the files of a table and check that each has the named columns once.

    Parameters
    ----------
    source : str or Path
        What :func:`find_parquet` takes.
    columns : sequence of str
        Names that each file must have, at any position.

    Returns
    -------
    list of ParquetPart

    Raises
    ------
    FileNotFoundError
        If :func:`find_parquet` raises it.
    LogError
        If a file is no Parquet file, is cut short, or has a column twice. It names the file.
    UnknownNameError
        If a file lacks a column. It names the file and lists its columns.
    """
    return [_opened_part(path, columns) for path in find_parquet(source)]


def same_types(parts: Sequence[ParquetPart], columns: Sequence[str]) -> pa.Schema:
    """Find one type for each column that all files agree on.

    Whole numbers of several sizes become the widest of them. A column without any value takes the type that
    it has elsewhere. Nothing else is converted, since other conversions can change values.

    Raises
    ------
    LogError
        If types differ. It names the file and the column.
    """
    fields = []
    for name in columns:
        first = parts[0].schema.field(name)
        agreed = first.type
        for part in parts[1:]:
            found = part.schema.field(name).type
            if found.equals(agreed) or pa.types.is_null(found):
                continue
            if pa.types.is_null(agreed):
                agreed = found
            elif _same_sign(agreed, found):
                agreed = max(agreed, found, key=lambda kind: kind.bit_width)
            else:
                raise LogError(
                    f"{part.path}, column {name!r}",
                    expected=f"type {agreed}, as in {parts[0].path.name}",
                    found=f"type {found}",
                    advice="Write all files of a table with one schema.",
                )
        fields.append(pa.field(name, agreed, metadata=first.metadata))
    return pa.schema(fields)


def frame_of(rows: pa.Table) -> pd.DataFrame:
    """Convert rows to a DataFrame whose whole numbers stay whole where some are missing.

    What pandas stored beside the columns is ignored: it may make a column the index, or ids floats.

    Examples
    --------
    >>> frame_of(pa.table({"customer": [9007199254740993, None]}))["customer"].tolist()
    [9007199254740993, <NA>]
    """
    return rows.to_pandas(types_mapper=_NULLABLE.get, ignore_metadata=True)


def whole_numbers(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Return a column of ids without missing values as int64 or uint64.

    Raises
    ------
    LogError
        If it holds anything but whole numbers; floats are refused, for they cannot hold all ids.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_decimal(kind) and kind.scale == 0:
        with suppress(pa.ArrowInvalid):  # too large for an id: refused by its type
            column, kind = column.cast(pa.int64()), pa.int64()
    if not pa.types.is_integer(kind):
        raise LogError(
            name,
            expected="whole numbers",
            found=f"dtype {'float64' if kind == pa.float64() else kind}",
            advice="Store ids as integers: floats hold whole numbers only up to 2^53.",
        )
    if column.null_count:  # in the dictionary itself
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise LogError(name, expected="a value in each row", found="none", row=row)
    return column.to_numpy()


def _opened_part(path: Path, columns: Sequence[str]) -> ParquetPart:
    if not _begins_as_parquet(path):
        raise LogError(
            str(path),
            expected="a Parquet file",
            found="an empty file" if path.stat().st_size == 0 else "a file of another format",
            advice="Of a folder with other files, pass a pattern such as 'folder/*.parquet'.",
        )
    with readable(path), pq.ParquetFile(path) as file:
        part = ParquetPart(path, file.metadata, file.schema_arrow, _stamp_of(path))
    names = part.schema.names
    for name in columns:
        if name not in names:
            raise UnknownNameError("column", expected=f"a column of {path.name}: {names}", found=repr(name))
        if names.count(name) > 1:
            raise LogError(
                f"{path}, column {name!r}", expected="one column of this name", found=str(names.count(name))
            )
    return part


def _begins_as_parquet(path: Path) -> bool:
    with readable(path), path.open("rb") as file:
        return file.read(4) == _MAGIC


def _stamp_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _same_sign(a: pa.DataType, b: pa.DataType) -> bool:
    both_signed = pa.types.is_signed_integer(a) and pa.types.is_signed_integer(b)
    return both_signed or (pa.types.is_unsigned_integer(a) and pa.types.is_unsigned_integer(b))
