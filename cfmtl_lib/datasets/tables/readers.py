"""Readers of files into three columns, user, item and rating, in the order of the file.

The C parser of pandas reads the files. It is fast but lenient. So any hint at a malformed line (an error, a
missing last field) starts a second, slow pass that finds the line.
"""

from __future__ import annotations

import csv
import io
import math
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cfmtl_lib.datasets.catalog import DatasetEntry, content_fingerprint
from cfmtl_lib.datasets.tables.arguments import PARQUET_SUFFIXES
from cfmtl_lib.datasets.tables.columns import ROLES, positions_of
from cfmtl_lib.datasets.tables.entries import id_labels, numbers, refuse_times
from cfmtl_lib.datasets.tables.layout import Layout, first_line, layout_of, lines_of
from cfmtl_lib.datasets.tables.matlab_files import read_matrices
from cfmtl_lib.datasets.tables.text_files import (
    DAMAGED,
    TextFile,
    begins_with,
    check_member,
    damaged,
    text_file,
)
from cfmtl_lib.errors import LogError, RatingsError
from cfmtl_lib.logs.parquet_files import frame_of, open_parquet

_MOST_BYTES_A_ROW = 200  # of an official text table: about four times what the longest row needs

# The C parser takes one-character separators only: "::" is replaced by a character that text never holds.
_STAND_IN = "\x1f"
_CHUNK_ROWS = 500_000


def locate_table(path: Path, entry: DatasetEntry) -> TextFile:
    """Return the data set's table: the file itself, or the member of that name if it is a zip.

    Raises
    ------
    RatingsError
        If the zip is damaged or truncated, or does not hold exactly one such member of a plausible size.
    """
    if path.suffix.lower() != ".zip":
        return TextFile(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [i for i in archive.infolist() if i.filename.rsplit("/", 1)[-1] == entry.table]
    except (*DAMAGED, OSError) as error:
        raise damaged(path, error) from error
    if len(members) != 1:
        raise RatingsError(
            str(path),
            expected=f"one member named {entry.table}",
            found=f"{len(members)}",
            advice=f"Get it again from {entry.source}.",
        )
    check_member(path, members[0], _MOST_BYTES_A_ROW * max(entry.n_rows, 1000))
    return TextFile(path, members[0].filename)


def read_official(
    path: Path, entry: DatasetEntry
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Read an official file and check that it is the one of the catalog.

    Parameters
    ----------
    path : Path
        Path of the table, or of the zip around it.
    entry : DatasetEntry

    Returns
    -------
    user, item : ndarray of shape (entry.n_rows,), int64
        Original ids, in the order of the file.
    rating : ndarray of shape (entry.n_rows,), float64

    Raises
    ------
    RatingsError
        If the file is malformed, or rows, ids, ratings or content are not those of the catalog.
    """
    file = locate_table(path, entry)
    if entry.table.endswith(".mat"):
        frame = read_matrices([path, *(path.with_name(name) for name in entry.more_tables)])
    else:
        frame = _official_frame(file, entry)
    advice = f"This is not the official {entry.table}: get it from {entry.source}."

    def must_equal(what: str, expected: object, found: object) -> None:
        if found != expected:
            raise RatingsError(
                f"{file.label}, {what}", expected=_shown(expected), found=_shown(found), advice=advice
            )

    rating = numbers(frame["rating"], f"{file.label}, column rating")
    low, high = entry.rating_range
    outside = np.flatnonzero((rating < low) | (rating > high))
    if outside.size:
        raise RatingsError(
            f"{file.label}, column rating",
            expected=f"ratings >= {low:g}" if math.isinf(high) else f"ratings in [{low:g}, {high:g}]",
            found=f"{rating[outside[0]]:g}",
            row=int(outside[0]),
            advice=advice,
        )
    ids: dict[str, NDArray[np.int64]] = {}
    for column, count in (("user", entry.n_users), ("item", entry.n_items)):
        values = numbers(frame[column], f"{file.label}, column {column}")
        least = entry.first_id or 0
        greatest = math.inf if entry.first_id is None else least + count - 1
        wrong = np.flatnonzero((values != np.rint(values)) | (values < least) | (values > greatest))
        if wrong.size:
            raise RatingsError(
                f"{file.label}, column {column}",
                expected=f"whole numbers from {least}" + ("" if math.isinf(greatest) else f" to {greatest}"),
                found=f"{values[wrong[0]]:g}",
                row=int(wrong[0]),
                advice=advice,
            )
        ids[column] = values.astype(np.int64)
    must_equal("rows", entry.n_rows, len(rating))
    for column, count in (("user", entry.n_users), ("item", entry.n_items)):
        if entry.first_id is None:
            must_equal(f"different {column}s", count, len(np.unique(ids[column])))
        else:
            must_equal(f"largest {column} id", count + entry.first_id - 1, int(ids[column].max()))
    if entry.n_positive is not None:
        above = int(np.count_nonzero(rating > entry.threshold))
        must_equal(f"ratings above {entry.threshold:g}", entry.n_positive, above)
    if entry.fingerprint is not None:
        found = content_fingerprint(ids["user"], ids["item"], rating)
        must_equal("content fingerprint", entry.fingerprint, found)
    if entry.git_blob is not None:
        must_equal("git object id", entry.git_blob, file.git_blob_id())
    return ids["user"], ids["item"], rating


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _official_frame(file: TextFile, entry: DatasetEntry) -> pd.DataFrame:
    first = first_line(file, entry.separator)
    if entry.columns is None:
        keep, n_fields = [0, 1, 2], entry.n_fields or len(first)
    else:
        missing = [name for name in entry.columns if name not in first]
        if missing:
            raise RatingsError(
                file.label,
                expected=f"a column named {missing[0]!r}",
                found="the columns " + ", ".join(first[:12]),
            )
        keep, n_fields = [first.index(name) for name in entry.columns], len(first)
    return _read_delimited(
        file,
        Layout(entry.separator, 0, first, None, names_in_table=entry.columns is not None),
        n_fields=n_fields,
        keep=keep,
        chunk_rows=_CHUNK_ROWS,  # KuaiRec has eight columns, two of them text: keep three as we go
    )


def read_table(
    path: Path,
    columns: Sequence[str | int] | None = None,
    *,
    encoding: str | None = None,
    separator: str | None = None,
    decimal: str = ".",
) -> pd.DataFrame:
    """Read any table of ratings: CSV, TSV, ``::``-separated or Parquet, packed or not.

    The first line is a header if its third field is no number, unless both fields before it are
    numbers. Columns of a header are found by their names, see
    :func:`~cfmtl_lib.datasets.tables.columns.positions_of`. Without a header they are the first three.

    Parameters
    ----------
    path : Path
    columns : sequence of 3 str or int, optional
        Names, in the header, or positions (from 0) of the columns with user, item and rating.
    encoding : str, optional
        Encoding of a text file. By default that of the mark at its start, else UTF-8.
    separator : str, optional
        Separator of the fields. By default it follows from the suffix and the first lines.
    decimal : {".", ","}
        Sign of a decimal in ratings.

    Returns
    -------
    DataFrame with columns user, item, rating
        One row per line, in the order of the file. Ids are int64, uint64 or texts, with every digit as
        written; ratings are finite floats.

    Raises
    ------
    RatingsError
        If the file is empty or no readable table, columns are not found, or a line has too few or too many
        fields. Also if ids or ratings are missing or malformed. The error gives the line or the row.
    """
    if begins_with(path, b"PAR1") or path.suffix.lower() in PARQUET_SUFFIXES:
        return checked_table(_read_parquet(path, columns), str(path), named=columns is not None)
    file = text_file(path, encoding)
    layout = layout_of(file, separator)
    if layout.names is None:
        by_name = [name for name in columns or () if isinstance(name, str)]
        if by_name and not all(name in layout.first for name in by_name):
            # Columns that are asked for by name are those of the first line, whatever it looks like.
            positions_of(layout.first, by_name, file.label)
        layout = replace(layout, names_in_table=True) if by_name else layout
        names = layout.first if by_name else [str(k) for k in range(len(layout.first))]
        keep = positions_of(names, columns or (0, 1, 2), file.label)
    else:
        keep = positions_of(layout.names, columns, file.label)
    frame = _read_delimited(
        file, layout, n_fields=len(layout.first), keep=keep, chunk_rows=None, as_text=True
    )
    if decimal == ",":
        rating = frame["rating"]
        both = np.flatnonzero(rating.astype(str).str.contains(".", regex=False).to_numpy())
        if both.size:
            raise RatingsError(
                f"{file.label}, column rating",
                expected="the comma as the sign of a decimal",
                found=repr(rating.iloc[int(both[0])]),
                row=int(both[0]),
            )
        frame["rating"] = rating.astype(str).str.replace(",", ".", regex=False).where(rating.notna())
    return checked_table(frame, file.label, named=columns is not None)


def table_of(frame: object, columns: Sequence[str | int] | None, label: str) -> pd.DataFrame:
    """Take user, item and rating of a dataframe, and check them as :func:`read_table` does.

    Parameters
    ----------
    frame : DataFrame
        Table of pandas, or of any library that shares its columns as Arrow does (polars, pyarrow, duckdb).
    columns : sequence of 3 str or int, optional
    label : str
        Name of the table in messages.

    Returns
    -------
    DataFrame with columns user, item, rating

    Raises
    ------
    RatingsError
        If it is no such table, or :func:`read_table` would raise it.
    """
    if not isinstance(frame, pd.DataFrame):
        if not (hasattr(frame, "__arrow_c_stream__") or isinstance(frame, pa.RecordBatch)):
            raise RatingsError(
                label,
                expected="the name of a data set, the path of a table, or a dataframe",
                found=f"{type(frame).__module__}.{type(frame).__qualname__}",
                advice="Make a pandas.DataFrame with columns user, item, rating; collect what is lazy.",
            )
        frame = frame_of(pa.table(frame))
    keep = positions_of(list(frame.columns), columns, label)
    taken = frame.iloc[:, keep].reset_index(drop=True)
    taken.columns = pd.Index(ROLES)
    if taken.empty:
        raise RatingsError(label, expected="at least one rating", found="none")
    return checked_table(taken, label, named=columns is not None)


def checked_table(frame: pd.DataFrame, label: str, *, named: bool) -> pd.DataFrame:
    """Check ids and ratings of a table; times are refused as ratings unless they were named by the caller."""
    rating = numbers(frame["rating"], f"{label}, column rating")
    if not named:
        refuse_times(rating, f"{label}, column rating")
    ids: dict[str, Any] = {name: id_labels(frame[name], f"{label}, column {name}") for name in ROLES[:2]}
    return pd.DataFrame({**ids, "rating": rating})


def _read_delimited(
    file: TextFile,
    layout: Layout,
    *,
    n_fields: int,
    keep: list[int],
    chunk_rows: int | None,
    as_text: bool = False,
) -> pd.DataFrame:
    """Read the three columns at positions ``keep``; whole columns at once if ``chunk_rows`` is None."""
    parts: list[pd.DataFrame] = []
    separator, suspicious, reason = layout.separator, False, ""
    with file.text() as handle, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # surplus fields in the first line
        buffer = handle
        if separator == "::":
            buffer = io.StringIO(handle.read().replace("::", _STAND_IN))
        try:
            with pd.read_csv(
                buffer,
                sep=_STAND_IN if separator == "::" else separator,
                skiprows=layout.skip + layout.names_in_table,
                header=None,
                names=list(range(n_fields + 1)),  # some versions drop what is beyond the names
                index_col=False,
                dtype=str if as_text else None,
                quoting=csv.QUOTE_NONE if separator == "::" else csv.QUOTE_MINIMAL,
                keep_default_na=False,  # a user may be called "NA"; only an empty field is missing
                na_values=[""],
                low_memory=False,
                chunksize=chunk_rows or 1 << 62,
            ) as reader:
                for chunk in reader:
                    last, surplus = chunk.iloc[:, -2], chunk.iloc[:, -1]
                    suspicious = suspicious or bool(last.isna().any() or surplus.notna().any())
                    parts.append(chunk.iloc[:, keep])
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            suspicious, reason = True, str(error).strip().rstrip(".")
        except pd.errors.EmptyDataError:
            pass
    if suspicious:
        _check_field_counts(file, layout, n_fields)
    if reason:
        raise RatingsError(file.label, expected="a table of ratings", found=reason)
    if not any(len(part) for part in parts):
        raise RatingsError(file.label, expected="at least one rating", found="none")
    frame = pd.concat(parts, ignore_index=True)
    frame.columns = pd.Index(ROLES)
    return frame


def _check_field_counts(file: TextFile, layout: Layout, n_fields: int) -> None:
    """Raise RatingsError at the first line with another number of fields."""
    for line, fields in lines_of(file, layout.separator, layout.skip):
        if len(fields) != n_fields:
            raise RatingsError(
                f"{file.label}, line {line}",
                expected=f"{n_fields} fields separated by {layout.separator!r}",
                found=f"{len(fields)}",
                advice="If it is the last line, the file was probably cut short: get it again.",
            )


def _read_parquet(path: Path, columns: Sequence[str | int] | None) -> pd.DataFrame:
    try:
        (part,) = open_parquet(path, [])
        names = part.schema.names
        keep = positions_of(names, columns, str(path))
        if any(names.count(names[place]) > 1 for place in keep):
            raise RatingsError(
                str(path), expected="each column once", found="the columns " + ", ".join(names)
            )
        chosen = [names[place] for place in keep]
        rows = pa.concat_tables([part.row_group(k, chosen) for k in range(part.metadata.num_row_groups)])
        frame = frame_of(pa.table([_decoded(column) for column in rows.columns], names=list(ROLES)))
    except LogError as error:
        raise RatingsError(
            error.subject, expected=error.expected, found=error.found, advice=error.advice
        ) from error
    if frame.empty:
        raise RatingsError(str(path), expected="at least one rating", found="none")
    return frame


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Turn bytes that are text in UTF-8 into text, as some writers of Parquet store it."""
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        with suppress(pa.ArrowInvalid):
            return column.cast(pa.large_string())
    return column
