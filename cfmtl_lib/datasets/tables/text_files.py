"""Text files, packed or not: their format and their encoding."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from cfmtl_lib.datasets.files import git_blob_id
from cfmtl_lib.errors import RatingsError

DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, lzma.LZMAError, gzip.BadGzipFile)
"""Errors of archives that are cut short or damaged."""

_OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_BY_PANDAS = "Read it with pandas and pass the DataFrame: load_ratings(pandas.{}(path))."
_OTHER_FORMATS = {
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", _BY_PANDAS.format("read_excel")),
    b"\x28\xb5\x2f\xfd": ("a Zstandard archive", "Unpack it first: unzstd."),
    b"7z\xbc\xaf": ("a 7-Zip archive", "Unpack it first."),
    b"Rar!": ("a RAR archive", "Unpack it first."),
    b"SQLite format 3": ("an SQLite database", _BY_PANDAS.format("read_sql")),
    b"\x89HDF": ("an HDF5 file", _BY_PANDAS.format("read_hdf")),
    b"ARROW1": ("a Feather file", _BY_PANDAS.format("read_feather")),
    b"PAR1": ("a Parquet file in an archive", "Unpack it first."),
    b"MATLAB": ("a MATLAB file", "Read it with scipy.io.loadmat and pass a DataFrame of user, item, rating."),
    b"ORC": ("an ORC file", _BY_PANDAS.format("read_orc")),
    b"%PDF": ("a PDF", "Get the table itself."),
    b"\x80\x04": ("a pickle", "Pickles can run any code, so none is read: pass the DataFrame itself."),
    b"\x80\x05": ("a pickle", "Pickles can run any code, so none is read: pass the DataFrame itself."),
    b"<": ("a page or XML, not a table", "A download that failed looks like this: get the file again."),
    b"{": ("JSON", _BY_PANDAS.format("read_json")),
    b"[": ("JSON", _BY_PANDAS.format("read_json")),
}
_MARKS = {  # the longer first: UTF-32 begins as UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LARGE = 1 << 30
_MOST_PACKED = 100  # times that text becomes smaller; files made to fill a memory reach a thousand


@dataclass(frozen=True)
class TextFile:
    """Text file, either plain or compressed or a member of a zip archive.

    Parameters
    ----------
    path : Path
    member : str, optional
        Name inside the zip archive.
    encoding : str
        Encoding of the text.
    """

    path: Path
    member: str | None = None
    encoding: str = "utf-8-sig"

    @property
    def label(self) -> str:
        """Name of the file in messages."""
        return str(self.path) if self.member is None else f"{self.path} ({self.member})"

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the file to read its unpacked bytes; errors on the way become a RatingsError."""
        try:
            with ExitStack() as stack:
                if self.member is not None:
                    archive = stack.enter_context(zipfile.ZipFile(self.path))
                    yield stack.enter_context(archive.open(self.member))
                else:
                    raw = stack.enter_context(self.path.open("rb"))
                    head = raw.read(6)
                    raw.seek(0)
                    opener = next((o for magic, o in _OPENERS.items() if head.startswith(magic)), None)
                    yield raw if opener is None else stack.enter_context(opener(raw))
        except DAMAGED as error:
            raise damaged(self.path, error) from error
        except UnicodeError as error:
            raise RatingsError(
                self.label,
                expected=f"text in {self.encoding.upper().removesuffix('-SIG')}",
                found=f"byte {error.object[error.start]:#04x}"
                if isinstance(error, UnicodeDecodeError)
                else str(error),
                advice=_advice_on_encoding(self),
            ) from error
        except OSError as error:
            raise RatingsError(
                self.label, expected="a readable file", found=error.strerror or str(error)
            ) from error

    @contextmanager
    def text(self) -> Iterator[IO[str]]:
        """Open the file to read decoded text with its own line ends."""
        with self.open() as handle:
            wrapper = io.TextIOWrapper(handle, encoding=self.encoding, newline="")
            try:
                yield wrapper
            finally:
                if not wrapper.closed:
                    wrapper.detach()  # or closing the wrapper would close a handle that is not its own

    def git_blob_id(self) -> str:
        """Compute the git object id of the (unpacked) content."""
        if self.member is None:
            size = self.path.stat().st_size
        else:
            with zipfile.ZipFile(self.path) as archive:
                size = archive.getinfo(self.member).file_size
        with self.open() as handle:
            return git_blob_id(handle, size)  # type: ignore[arg-type]


def text_file(path: Path, encoding: str | None = None) -> TextFile:
    """Find the text table in a file, and its encoding by the mark at its start.

    Raises
    ------
    RatingsError
        If the file has another format, or is an archive of several files. It says how to convert it.
    """
    file = TextFile(path)
    with file.open() as handle:
        head = handle.read(4096)
    if head.startswith(b"PK\x03\x04") or path.suffix.lower() == ".zip":
        file = TextFile(path, _only_member(path))
        with file.open() as handle:
            head = handle.read(4096)
    if encoding is not None:
        return replace(file, encoding=_known_encoding(encoding, head))
    marked = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    if marked is not None:
        return replace(file, encoding=marked)
    for magic, (name, advice) in _OTHER_FORMATS.items():
        if head.lstrip().startswith(magic):
            raise RatingsError(
                file.label,
                expected="a table (CSV, TSV, '::'-separated or Parquet)",
                found=name,
                advice=advice,
            )
    if b"\0" in head:
        raise RatingsError(
            file.label,
            expected="text",
            found="bytes of value 0",
            advice="If it is text in UTF-16, pass encoding='utf-16-le' or 'utf-16-be'.",
        )
    return file


def begins_with(path: Path, magic: bytes) -> bool:
    """Tell whether a file begins with some bytes, before anything is unpacked."""
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise RatingsError(
            str(path), expected="a readable file", found=error.strerror or str(error)
        ) from error


def damaged(path: Path, error: Exception) -> RatingsError:
    """Describe an archive that cannot be read."""
    kind = "archive" if path.suffix.lower() not in (".zip",) else "zip archive"
    return RatingsError(
        str(path),
        expected=f"a complete {kind}",
        found=str(error).rstrip(".") or type(error).__name__,
        advice="It is probably truncated: delete it and download it again.",
    )


def _only_member(path: Path) -> str:
    """Return the name of the only file in a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    except DAMAGED as error:
        raise damaged(path, error) from error
    if any(name.startswith("xl/") or name == "content.xml" for name in sizes):
        raise RatingsError(
            str(path),
            expected="a table (CSV, TSV, '::'-separated or Parquet)",
            found="a spreadsheet",
            advice=_BY_PANDAS.format("read_excel"),
        )
    members = [n for n in sizes if not n.startswith("__MACOSX/") and not n.rsplit("/", 1)[-1].startswith(".")]
    if len(members) != 1:
        raise RatingsError(
            str(path),
            expected="one table in the zip archive",
            found=f"{len(members)} files: " + ", ".join(members[:6]),
            advice="Unpack it, or pass the data set's name and the archive as data_dir.",
        )
    member = sizes[members[0]]
    check_member(path, member, max(_LARGE, _MOST_PACKED * member.compress_size))
    return members[0]


def check_member(path: Path, member: zipfile.ZipInfo, most: int) -> None:
    """Raise RatingsError before unpacking if a member is encrypted, or larger than ``most`` bytes.

    The size that the archive states is a limit: ``zipfile`` reads no more.
    """
    if member.flag_bits & 1:
        raise RatingsError(
            f"{path} ({member.filename})",
            expected="a table",
            found="an encrypted one",
            advice="Unpack it first.",
        )
    if member.file_size > most:
        raise RatingsError(
            f"{path} ({member.filename})",
            expected=f"at most {most:,} bytes when unpacked",
            found=f"{member.file_size:,}",
            advice="Get the file again from its source, or unpack it and pass the table.",
        )


def _known_encoding(encoding: object, head: bytes) -> str:
    try:
        name = codecs.lookup(encoding).name  # type: ignore[arg-type]
        "".encode(name)  # some are no encodings of text
    except (LookupError, TypeError) as error:
        raise RatingsError(
            "encoding", expected="the name of an encoding, e.g. 'utf-8' or 'gb18030'", found=repr(encoding)
        ) from error
    return "utf-8-sig" if name == "utf-8" else name


def _advice_on_encoding(file: TextFile) -> str:
    """Show how the first line with other characters reads in likely encodings."""
    with replace(file, encoding="latin-1").open() as handle:
        line = next((line for line in handle if not line.isascii()), b"").strip()[:200]
    readings: dict[str, str] = {}
    for encoding in ("gb18030", "cp1252", "latin-1"):
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError:
            continue
        strange = [letter for letter in text if not letter.isascii()]
        chinese = [letter for letter in strange if "\u3000" <= letter <= "\u9fff" or letter >= "\uff00"]
        if encoding != "gb18030" or len(chinese) > 0.8 * len(strange):
            readings.setdefault(text, f"encoding={encoding!r} reads {text[:40]!r}")
    return f"Pass its encoding: {' and '.join(list(readings.values())[:2])}."
