"""Layout of a text table: lines before it, the separator of its fields, and its names."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cfmtl_lib.datasets.tables.columns import count_roles
from cfmtl_lib.datasets.tables.text_files import TextFile
from cfmtl_lib.errors import RatingsError

SEPARATORS = ("::", "\t", ",", ";", "|", " ")
SEPARATOR_OF_SUFFIX = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_SAMPLE_LINES = 50


@dataclass(frozen=True)
class Layout:
    """Layout of a text table.

    Parameters
    ----------
    separator : str
    skip : int
        Number of lines before the table: comments, or a hint at the separator.
    first : list of str
        Fields of the first line of the table.
    names : list of str, optional
        Names of the columns, if the table has any.
    names_in_table : bool
        Whether the first line of the table has them; else a comment above has.
    """

    separator: str
    skip: int
    first: list[str]
    names: list[str] | None
    names_in_table: bool


def layout_of(file: TextFile, separator: str | None = None) -> Layout:
    """Find lines before the table, the separator of its fields, and its names.

    Raises
    ------
    RatingsError
        If the file is empty, or no separator or more than one gives three fields.
    """
    skip, comment = 0, ""
    with file.text() as text:
        lines = list(itertools.islice(io.StringIO(text.read(1 << 20), newline=None), 10_000))
    hint = None
    for line in lines:
        stripped = line.strip()
        if stripped.lower().startswith("sep=") and len(stripped) == 5:
            hint = stripped[4]
        elif stripped.startswith(("#", "%")):
            comment = stripped.lstrip("#% ")
        elif stripped:
            break
        skip += 1
    sample = [line for line in lines[skip:] if line.strip()][:_SAMPLE_LINES]
    if not sample:
        raise RatingsError(
            file.label, expected="lines of user, item, rating", found="an empty file", advice="Get it again."
        )
    chosen = separator or hint or _separator_of(file, sample)
    first = [field.strip() for field in _split(sample, chosen)[0]]
    if len(first) < 3:
        raise RatingsError(
            f"{file.label}, first line",
            expected=f"at least three fields separated by {chosen!r}",
            found=repr(sample[0].strip()[:60]),
        )
    if comment:
        above = [field.strip() for fields in _split([comment], chosen) for field in fields]
        if len(above) == len(first) and count_roles(above) >= 2:
            return Layout(chosen, skip, first, above, names_in_table=False)
        if len(above) == len(first) and _is_number(above[2]):
            raise RatingsError(
                f"{file.label}, line {skip}",
                expected="a comment or a row",
                found=repr(comment[:60]),
                advice="A line that begins with '#' or '%' is a comment: delete it, or the sign.",
            )
    header = is_header(first)
    return Layout(chosen, skip, first, first if header else None, names_in_table=header)


def lines_of(file: TextFile, separator: str, skip: int = 0) -> Iterator[tuple[int, list[str]]]:
    """Yield number (from 1) and fields of every line that is not blank; slow, for few lines or errors."""
    with file.text() as text:
        for _ in range(skip):
            text.readline()
        try:
            if separator == "::":
                lines = enumerate(text, skip + 1)
                yield from ((n, s.rstrip("\r\n").split("::")) for n, s in lines if s.strip())
            else:
                rows = csv.reader(text, delimiter=separator)
                for row in rows:
                    if len(row) > 1 or "".join(row).strip():
                        yield skip + rows.line_num, row
        except csv.Error as error:
            raise RatingsError(file.label, expected="a text table", found=str(error)) from error


def first_line(file: TextFile, separator: str) -> list[str]:
    """Read the fields of the first line that is not blank."""
    for _, fields in lines_of(file, separator):
        return [field.strip() for field in fields]
    raise RatingsError(
        file.label, expected="lines of user, item, rating", found="an empty file", advice="Get it again."
    )


def is_header(fields: list[str]) -> bool:
    """Return whether the fields of a first line are names of columns."""
    # Columns are seldom named by numbers: "1,2,five" is a row with a wrong rating, not a header.
    if not _is_number(fields[2]) and not (_is_number(fields[0]) and _is_number(fields[1])):
        return True
    # An index column has no name; 0, 1, 2, 3 are the names that pandas gives where there are none.
    counted = fields == [str(k) for k in range(len(fields))] and len(fields) > 3
    return not fields[0] or counted or count_roles(fields) == 3


def _separator_of(file: TextFile, sample: list[str]) -> str:
    """Find the separator: that of the suffix, else the first that gives each line the same fields."""
    preferred = SEPARATOR_OF_SUFFIX.get(
        Path(file.member or file.path.name.removesuffix(".gz")).suffix.lower()
    )
    order = [*([preferred] if preferred else []), *(s for s in SEPARATORS if s != preferred)]
    counts = {separator: [len(fields) for fields in _split(sample, separator)] for separator in order}
    possible = [separator for separator in order if counts[separator] and counts[separator][0] >= 3]
    even = [separator for separator in possible if len(set(counts[separator])) == 1]
    chosen = next(iter(even or possible), None)
    if chosen is None:
        raise RatingsError(
            f"{file.label}, first line",
            expected="at least three fields separated by one of " + ", ".join(map(repr, SEPARATORS)),
            found=repr(sample[0].strip()[:60]),
        )
    others = [separator for separator in even if separator not in (chosen, " ")]
    if others:
        raise RatingsError(
            f"{file.label}, first line",
            expected="one separator of fields",
            found=f"{chosen!r} and {others[0]!r}, both of which fit {sample[0].strip()[:60]!r}",
            advice=f"Say which it is: separator={chosen!r} or {others[0]!r}.",
        )
    return chosen


def _split(lines: list[str], separator: str) -> list[list[str]]:
    if separator == "::":
        return [line.rstrip("\r\n").split("::") for line in lines]
    try:
        return [row for row in csv.reader(lines, delimiter=separator) if row]
    except csv.Error:  # e.g. a quotation mark that is never closed
        return [line.rstrip("\r\n").split(separator) for line in lines]


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", ".", 1))  # the comma of a decimal
    except ValueError:
        return False
    return True
