"""Text files of ratings, zipped or not: their lines, separator and header."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cfmtl_lib.datasets.catalog import git_blob_id
from cfmtl_lib.errors import RatingsError

SEPARATORS = ("::", "\t", ",", ";", " ")


SEPARATOR_OF_SUFFIX = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True)
class TextFile:
    """Text file, either plain or a member of a zip archive."""

    path: Path
    member: str | None = None

    @property
    def label(self) -> str:
        """Name of the file in messages."""
        return str(self.path) if self.member is None else f"{self.path} ({self.member})"

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the file to read bytes; errors of the archive or of the decoding become a RatingsError."""
        try:
            with ExitStack() as stack:
                if self.member is None:
                    yield stack.enter_context(self.path.open("rb"))
                else:
                    archive = stack.enter_context(zipfile.ZipFile(self.path))
                    yield stack.enter_context(archive.open(self.member))
        except ZIP_ERRORS as error:
            raise unreadable_zip(self.path, error) from error
        except UnicodeDecodeError as error:
            raise RatingsError(
                self.label,
                expected="text in UTF-8",
                found=f"byte {error.object[error.start]:#04x}",
                advice="Only plain (not compressed) text and Parquet are read.",
            ) from error
        except OSError as error:
            raise RatingsError(
                self.label, expected="a readable file", found=error.strerror or str(error)
            ) from error

    def git_blob_id(self) -> str:
        """Compute the git object id of the (unpacked) content."""
        if self.member is None:
            size = self.path.stat().st_size
        else:
            with zipfile.ZipFile(self.path) as archive:
                size = archive.getinfo(self.member).file_size
        with self.open() as handle:
            return git_blob_id(handle, size)  # type: ignore[arg-type]


def lines_of(file: TextFile, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number (from 1) and fields of every line that is not blank; slow, for few lines or errors."""
    with file.open() as handle:
        text = io.TextIOWrapper(handle, encoding="utf-8-sig", newline=None if separator == "::" else "")
        try:
            if separator == "::":
                yield from ((n, s.rstrip("\n").split("::")) for n, s in enumerate(text, 1) if s.strip())
            else:
                rows = csv.reader(text, delimiter=separator)
                yield from ((rows.line_num, row) for row in rows if len(row) > 1 or "".join(row).strip())
        except csv.Error as error:
            raise RatingsError(file.label, expected="a text table", found=str(error)) from error
        finally:
            if not text.closed:
                text.detach()  # or closing the wrapper would close a handle that is not its own


def first_line(file: TextFile, separator: str) -> list[str]:
    """Read the fields of the first line that is not blank."""
    for _, fields in lines_of(file, separator):
        return [field.strip() for field in fields]
    raise RatingsError(
        file.label, expected="lines of user, item, rating", found="an empty file", advice="Get it again."
    )


def separator_of(file: TextFile) -> str:
    """Find the separator of the fields: by the name of the file, else the first that gives three."""
    preferred = SEPARATOR_OF_SUFFIX.get(file.path.suffix.lower())
    for separator in ([preferred] if preferred else []) + list(SEPARATORS):
        if len(first_line(file, separator)) >= 3:
            return separator
    raise RatingsError(
        f"{file.label}, first line",
        expected="at least three fields separated by one of " + ", ".join(map(repr, SEPARATORS)),
        found=repr("".join(first_line(file, "::"))[:60]),
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_header(fields: list[str]) -> bool:
    """Return whether the fields of a first line are names of columns."""
    # Columns are seldom named by numbers: "1,2,five" is a row with a wrong rating, not a header.
    return not _is_number(fields[2]) and not (_is_number(fields[0]) and _is_number(fields[1]))


def unreadable_zip(path: Path, error: Exception) -> RatingsError:
    """Describe a zip file that cannot be read."""
    return RatingsError(
        str(path),
        expected="a complete zip archive",
        found=str(error).rstrip(".") or type(error).__name__,
        advice="It is probably truncated: delete it and download it again.",
    )
