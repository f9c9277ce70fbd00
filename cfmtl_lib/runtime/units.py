"""Several files of a folder as one unit: a reader finds all of them old or all of them new.

New contents are written beside the old files first. Then one rename commits: that of a journal, which says
which new file takes the place of which old one. After it, files are renamed and the journal is removed. A
process that is killed before the commit leaves the old files. If it is killed after, readers follow the
journal, and the next writer finishes what it says. Writers and readers of a folder wait for one another,
where the system has locks of files.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cfmtl_lib.errors import ResultsError
from cfmtl_lib.runtime.files import FILE_MODE, fcntl, flush_to_disk, sweep, write_whole

JOURNAL = ".commit.json"
"""Name of the journal in the folder."""

LONGEST_WAIT = 60.0
"""Seconds to wait for other readers and writers of a folder."""

_NEW = re.compile(r"\..+\.[0-9a-f]{16}\.new")


def write_unit(folder: str | Path, contents: Mapping[str, str]) -> None:
    """Write files of one folder as one unit.

    Parameters
    ----------
    folder : str or Path
        Folder, made if it is not there.
    contents : mapping of str to str
        Text by name of the file, written as UTF-8, its line ends unchanged.

    Raises
    ------
    ResultsError
        If the folder cannot be written to. The message says whether readers see old or new files. Also if
        another process writes there for a minute.
    """
    folder = Path(folder)
    new = {name: f".{name}.{secrets.token_hex(8)}.new" for name in contents}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, shared=False):
            _finish(folder)
            _sweep_unit(folder)
            try:
                for name, temporary in new.items():
                    _write(folder / temporary, contents[name])
                flush_to_disk(folder)
                with _interrupts_held_back():
                    write_whole(folder / JOURNAL, json.dumps(new))
                    _finish(folder)
            except BaseException:
                if not (folder / JOURNAL).exists():
                    for temporary in new.values():
                        (folder / temporary).unlink(missing_ok=True)
                raise
    except OSError as error:
        committed = (folder / JOURNAL).exists()
        state = "The new files are read all the same" if committed else "The old files are unchanged"
        raise ResultsError(
            f"folder {folder}",
            expected="a folder whose files can be written and replaced",
            found=f"{type(error).__name__}: {error.strerror or error}",
            advice=f"{state}. Make room, or give yourself the right to write there, and run again.",
        ) from error


@contextmanager
def reading_unit(folder: str | Path) -> Iterator[Mapping[str, Path]]:
    """Hold back writers of a folder inside the block, and tell where files are that await their rename.

    Yields
    ------
    mapping of str to Path
        Path of the present content, by name of the file; no entry if it is at its own place.
    """
    folder = Path(folder)
    if _journal(folder):
        with suppress(OSError), _locked(folder, shared=False):
            _finish(folder)
    with _locked(folder, shared=True):
        waiting = {name: folder / temporary for name, temporary in _journal(folder).items()}
        yield {name: path for name, path in waiting.items() if path.is_file()}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
    os.chmod(path, FILE_MODE)
    flush_to_disk(path)


def _journal(folder: Path) -> dict[str, str]:
    """Read which new file takes the place of which; a name with a folder in it is none of ours."""
    try:
        found = json.loads((folder / JOURNAL).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise ResultsError(
            str(folder / JOURNAL),
            expected="the journal of a write that was interrupted",
            found=f"{type(error).__name__}: {error}",
            advice="Run the command of the tables in this folder again, after you have removed this file.",
        ) from error
    if not isinstance(found, dict) or not all(
        isinstance(temporary, str) and _NEW.fullmatch(temporary) and "/" not in name + temporary
        for name, temporary in found.items()
    ):
        raise ResultsError(
            str(folder / JOURNAL),
            expected="the journal of a write that was interrupted",
            found="other content",
            advice="Remove the file.",
        )
    return found


def _finish(folder: Path) -> None:
    """Rename what a journal names, and remove the journal: all of it may have been done before."""
    new = _journal(folder)
    for name, temporary in new.items():
        with suppress(FileNotFoundError):
            os.replace(folder / temporary, folder / name)
    if new:
        flush_to_disk(folder)
        (folder / JOURNAL).unlink(missing_ok=True)


def _sweep_unit(folder: Path) -> None:
    sweep(folder)
    if fcntl is not None:  # under the lock nobody else has such files
        for path in folder.iterdir():
            if _NEW.fullmatch(path.name):
                path.unlink(missing_ok=True)


@contextmanager
def _locked(folder: Path, *, shared: bool) -> Iterator[None]:
    """Lock a folder for this reader or writer; a lock ends with its process, however that ends."""
    if fcntl is None or not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        give_up = time.monotonic() + LONGEST_WAIT
        while True:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    raise ResultsError(
                        f"folder {folder}",
                        expected="a folder that no other process writes to",
                        found=f"one that has been in use for {LONGEST_WAIT:.0f} s",
                        advice="Wait for the other run to end, or name another folder.",
                    ) from error
                time.sleep(0.01)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(handle)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Deliver Ctrl-C after the block instead of inside it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives it, or may set handlers
        return
    held: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if held:
            signal.raise_signal(signal.SIGINT)
