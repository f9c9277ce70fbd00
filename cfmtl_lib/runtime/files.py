"""Writing of files whole or not at all, and trying of folders before the work that fills them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cfmtl_lib.errors import ResultsError

try:
    import fcntl
except ImportError:  # Windows has no such locks: nothing is swept there, and writers do not wait
    fcntl = None  # type: ignore[assignment]

_UMASK = os.umask(0)  # the only way to read it is to set it: once, before there are threads
os.umask(_UMASK)
FILE_MODE = 0o666 & ~_UMASK
"""Permissions of a new file, as ``open`` would give them."""

TRIAL_SIZE = 1 << 16
"""Bytes that :func:`try_folder` writes."""

_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; rename it to ``path`` at the end, or remove it on an error.

    The temporary file is locked while it is written. Temporary files in the same folder that nobody has
    locked were left by processes that were killed, and are removed.

    Parameters
    ----------
    path : str or Path
        Path of the file to write or replace. Its folder is made if it is not there.

    Yields
    ------
    Path
        Temporary path in the same folder, to write to.

    Raises
    ------
    OSError
        If the folder cannot be made, or the file cannot be written.

    Examples
    --------
    >>> folder = tempfile.TemporaryDirectory()
    >>> with replacing(f"{folder.name}/table.csv") as temporary:
    ...     _ = temporary.write_text("a,b")
    >>> os.listdir(folder.name)
    ['table.csv']
    >>> folder.cleanup()
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    temporary, lock = _new_part(path)
    try:
        yield temporary
        flush_to_disk(temporary)
        os.chmod(temporary, FILE_MODE)  # mkstemp makes files that others cannot read
        os.replace(temporary, path)
    finally:
        _drop(temporary, lock)


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file whole or not at all; text is written as UTF-8, its line ends unchanged."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, would survive a loss of power."""
    with suppress(OSError):  # some file systems cannot
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sweep(folder: Path) -> None:
    """Remove temporary files in a folder whose writers were killed."""
    if fcntl is None:
        return
    with suppress(OSError):
        for entry in os.scandir(folder):
            if _PART.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_if_abandoned(entry.path)


def _remove_if_abandoned(path: str) -> None:
    with suppress(OSError):
        handle = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
            os.unlink(path)
        finally:
            os.close(handle)


def _new_part(path: Path) -> tuple[Path, int | None]:
    """Make a temporary file beside ``path``, and lock it where that is possible."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:200]}.", suffix=".part")
        if fcntl is None:
            os.close(handle)
            return Path(name), None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process is about to sweep it: it was not locked yet
            os.close(handle)
            continue
        except OSError:  # a file system without locks
            return Path(name), handle
        if os.path.exists(name):
            return Path(name), handle
        os.close(handle)


def _drop(part: Path, lock: int | None) -> None:
    try:
        part.unlink(missing_ok=True)
    finally:
        if lock is not None:
            os.close(lock)


def try_folder(folder: str | Path | None) -> None:
    """Write a small file in a folder and remove it, so that a long run does not end in vain.

    Parameters
    ----------
    folder : str or Path, optional
        Folder. One that is not there is made and removed again. Nothing is tried if left out.

    Raises
    ------
    ResultsError
        If it is a file, or no file can be written there.

    Examples
    --------
    >>> try_folder(__file__)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.ResultsError: folder ...: expected a folder that can be written to, with space for ...
    """
    if folder is None:
        return
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        trial, lock = _new_part(folder / "trial")
        try:
            trial.write_bytes(b"\0" * TRIAL_SIZE)
        finally:
            _drop(trial, lock)
    except OSError as error:
        blocking = next((path for path in (folder, *folder.parents) if path.is_file()), None)
        raise ResultsError(
            f"folder {folder}",
            expected="a folder that can be written to, with space for results",
            found=f"{type(error).__name__}: {error.strerror or error}"
            if blocking is None
            else f"a file, {blocking}",
            advice="Name another folder, or make room and give yourself the right to write there.",
        ) from error
    finally:
        with suppress(OSError):  # another run may write there by now
            for path in made:
                path.rmdir()
