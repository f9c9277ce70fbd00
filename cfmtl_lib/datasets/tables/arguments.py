"""Checks of the arguments that say which table is read, and how."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cfmtl_lib.checks import whole_number
from cfmtl_lib.datasets.catalog import CATALOG
from cfmtl_lib.errors import RatingsError, UnknownNameError, check_choice

PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (
    *(".csv", ".tsv", ".tab", ".dat", ".txt", ".rating", ".inter", ".data", *PARQUET_SUFFIXES),
    *(".zip", ".gz", ".bz2", ".xz", ".xlsx", ".xls", ".json", ".feather", ".mat"),
)
"""Suffixes by which a text is taken for the path of a table, also of tables that are refused."""


def table_path(name_or_path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None) -> Path:
    """Return the path of a table, or raise an error that lists the known names."""
    path = Path(data_dir or "").expanduser() / Path(name_or_path).expanduser()
    if path.is_file():
        return path
    known = ", ".join(map(repr, CATALOG))
    is_name = isinstance(name_or_path, str) and not (
        os.sep in name_or_path or "/" in name_or_path or path.suffix.lower() in TABLE_SUFFIXES
    )
    if is_name and not path.exists():
        raise UnknownNameError(
            "name_or_path",
            expected=f"one of {known}, or the path of a table with user, item and rating",
            found=repr(name_or_path),
        )
    raise RatingsError(
        str(path),
        expected="a file",
        found="a folder" if path.is_dir() else "no such file",
        advice=f"Pass the path of a table, or a name ({known}) with its folder as data_dir.",
    )


def check_columns(columns: Sequence[str | int] | None) -> tuple[str | int, ...] | None:
    """Check names or positions of three columns."""
    if columns is None:
        return None
    names = () if isinstance(columns, str) or not isinstance(columns, Sequence) else tuple(columns)
    places = all(whole_number(name) is not None and name >= 0 for name in names)  # type: ignore[operator]
    if len(set(names)) != 3 or len(names) != 3 or not (places or all(isinstance(n, str) for n in names)):
        raise RatingsError(
            "columns",
            expected="three different names, or positions from 0: user, item, rating",
            found=repr(columns),
        )
    return names


def check_text_options(separator: str | None, decimal: str) -> None:
    """Check the separator of fields and the sign of a decimal."""
    check_choice("decimal", decimal, (".", ","))
    if (
        separator is not None
        and separator != "::"
        and not (isinstance(separator, str) and len(separator) == 1)
    ):
        raise RatingsError("separator", expected="one character, or '::'", found=repr(separator))
    if separator == decimal:
        raise RatingsError("separator", expected="another sign than the decimal", found=repr(separator))
