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
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cfmtl_lib.datasets.catalog import DatasetEntry, content_fingerprint
from cfmtl_lib.datasets.text_files import (
    ZIP_ERRORS,
    TextFile,
    first_line,
    is_header,
    lines_of,
    separator_of,
    unreadable_zip,
)
from cfmtl_lib.errors import RatingsError

RATING_COLUMNS = ("user", "item", "rating")
"""Column names of every frame returned here, and the names looked for in a table's header."""

PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".dat", ".txt", ".rating", ".inter", ".zip", *PARQUET_SUFFIXES)

# The C parser takes one-character separators only: "::" is replaced by a character that text never holds.
_STAND_IN = "\x1f"
_CHUNK_ROWS = 500_000


def locate_table(path: Path, entry: DatasetEntry) -> TextFile:
    """Return the data set's table: the file itself, or the member of that name if it is a zip.

    Raises
    ------
    RatingsError
        If the zip is damaged or truncated, or does not hold exactly one such member.
    """
    if path.suffix.lower() != ".zip":
        return TextFile(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] == entry.table]
    except (*ZIP_ERRORS, OSError) as error:
        raise unreadable_zip(path, error) from error
    if len(members) != 1:
        raise RatingsError(
            str(path),
            expected=f"one member named {entry.table}",
            found=f"{len(members)}",
            advice=f"Download {entry.url} again.",
        )
    return TextFile(path, members[0])


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
    frame = _official_frame(file, entry)
    advice = f"This is not the official {entry.table}: get it from {entry.url}, see {entry.homepage}."

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
        keep, n_fields = _positions(first, entry.columns, file.label), len(first)
    return _read_delimited(
        file,
        entry.separator,
        n_fields=n_fields,
        keep=keep,
        header=entry.columns is not None,
        chunk_rows=_CHUNK_ROWS,  # KuaiRec has eight columns, two of them text: keep three as we go
    )


def read_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read any table of ratings: CSV, TSV, ``::``-separated or Parquet.

    The separator follows from the extension and the first line. The first line is a header if its
    third field is no number, unless both fields before it are numbers. With a header that has the
    names user, item and rating these columns are taken, else the first three.

    Parameters
    ----------
    path : Path
    columns : sequence of 3 str, optional
        Names, in the header, of the columns with user, item and rating.

    Returns
    -------
    DataFrame with columns user, item, rating
        One row per line, in the order of the file, with types as found. There is at least one row, and all
        lines have the same number of fields; nothing else is checked.

    Raises
    ------
    RatingsError
        If the file is empty or no readable table, a line has too few or too many fields, or named columns do
        not exist. The error gives the number of the line.
    """
    if path.suffix.lower() in PARQUET_SUFFIXES:
        return _read_parquet(path, columns)
    if path.suffix.lower() == ".zip":
        raise RatingsError(
            str(path),
            expected="a table (CSV, TSV, '::'-separated or Parquet)",
            found="a zip archive",
            advice="Unpack it, or pass the data set's name and the archive as data_dir.",
        )
    file = TextFile(path)
    separator = separator_of(file)
    first = first_line(file, separator)
    header = columns is not None or is_header(first)
    keep = _positions(first, columns, file.label) if header else [0, 1, 2]
    return _read_delimited(file, separator, n_fields=len(first), keep=keep, header=header, chunk_rows=None)


def numbers(series: pd.Series, subject: str) -> NDArray[np.float64]:
    """Return the column as finite float64, or raise at the first entry that is missing or no number."""
    values = np.asarray(pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size:
        row = int(wrong[0])
        entry = series.iloc[row]
        found = "a missing value" if pd.isna(entry) else repr(entry)
        raise RatingsError(subject, expected="a finite number", found=found, row=row)
    return values


def _read_delimited(
    file: TextFile, separator: str, *, n_fields: int, keep: list[int], header: bool, chunk_rows: int | None
) -> pd.DataFrame:
    """Read the three columns at positions ``keep``; whole columns at once if ``chunk_rows`` is None."""
    parts: list[pd.DataFrame] = []
    suspicious, reason = False, ""
    with file.open() as handle, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # surplus fields in the first line
        buffer = handle
        if separator == "::":
            buffer = io.BytesIO(handle.read().replace(b"::", _STAND_IN.encode()))
        try:
            with pd.read_csv(
                buffer,
                sep=_STAND_IN if separator == "::" else separator,
                header=0 if header else None,
                names=list(range(n_fields)),
                index_col=False,
                quoting=csv.QUOTE_NONE if separator == "::" else csv.QUOTE_MINIMAL,
                keep_default_na=False,  # a user may be called "NA"; only an empty field is missing
                na_values=[""],
                low_memory=False,
                chunksize=chunk_rows or 1 << 62,
            ) as reader:
                for chunk in reader:
                    suspicious = suspicious or bool(chunk.iloc[:, -1].isna().any())
                    parts.append(chunk.iloc[:, keep])
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            suspicious, reason = True, str(error).strip().rstrip(".")
        except pd.errors.EmptyDataError:
            pass
    if suspicious:
        _check_field_counts(file, separator, n_fields)
    if reason:
        raise RatingsError(file.label, expected="a table of ratings", found=reason)
    if not any(len(part) for part in parts):
        raise RatingsError(file.label, expected="at least one rating", found="none")
    frame = pd.concat(parts, ignore_index=True)
    frame.columns = pd.Index(RATING_COLUMNS)
    return frame


def _check_field_counts(file: TextFile, separator: str, n_fields: int) -> None:
    """Raise RatingsError at the first line with another number of fields."""
    for line, fields in lines_of(file, separator):
        if len(fields) != n_fields:
            raise RatingsError(
                f"{file.label}, line {line}",
                expected=f"{n_fields} fields separated by {separator!r}",
                found=f"{len(fields)}",
                advice="If it is the last line, the file was probably cut short: get it again.",
            )


def _positions(header: list[str], columns: Sequence[str] | None, label: str) -> list[int]:
    """Find positions of user, item and rating in a header: by name, else the first three."""
    wanted = tuple(columns or RATING_COLUMNS)
    if len(header) != 0 and all(name in header for name in wanted):
        return [header.index(name) for name in wanted]
    shown = ", ".join(header[:12])
    if columns is not None:
        missing = next(name for name in wanted if name not in header)
        raise RatingsError(label, expected=f"a column named {missing!r}", found=f"the columns {shown}")
    # Taking the first three would be a silent mistake where one of the names stands elsewhere.
    if len(header) < 3 or any(
        name in header and header.index(name) != k for k, name in enumerate(RATING_COLUMNS)
    ):
        raise RatingsError(
            label,
            expected="columns user, item, rating, or these as the first three",
            found=f"the columns {shown}",
            advice="Say which they are, e.g. columns=('user_id', 'item_id', 'rating').",
        )
    return [0, 1, 2]


def _read_parquet(path: Path, columns: Sequence[str] | None) -> pd.DataFrame:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            chosen = [names[k] for k in _positions(names, columns, str(path))]
            frame = file.read(columns=chosen).to_pandas(ignore_metadata=True)[chosen]
    except RatingsError:
        raise
    except (ArrowException, OSError, ValueError) as error:
        raise RatingsError(
            str(path), expected="a Parquet file", found=str(error).splitlines()[0].rstrip(".")
        ) from error
    if frame.empty:
        raise RatingsError(str(path), expected="at least one rating", found="none")
    frame.columns = pd.Index(RATING_COLUMNS)
    return frame
