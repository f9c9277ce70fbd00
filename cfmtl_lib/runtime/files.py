"""Atomic writing of files: whole or not at all."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_UMASK = os.umask(0)  # the only way to read it is to set it: once, before there are threads
os.umask(_UMASK)
FILE_MODE = 0o666 & ~_UMASK
"""Permissions of a new file, as ``open`` would give them."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path; rename it to ``path`` at the end, or remove it on an error.

    Parameters
    ----------
    path : str or Path
        Path of the file to write or replace. Its folder is made if it is not there.

    Yields
    ------
    Path
        Temporary path in the same folder, to write to.

    Examples
    --------
    >>> folder = tempfile.TemporaryDirectory()
    >>> with replacing(f"{folder.name}/table.csv") as temporary:
    ...     _ = temporary.write_text("a,b")
    >>> os.listdir(folder.name)
    ['table.csv']
    >>> folder.cleanup()
    """
    with replacing_all([path]) as (temporary,):
        yield temporary


@contextmanager
def replacing_all(paths: Sequence[str | Path]) -> Iterator[list[Path]]:
    """Yield a temporary path for each path; rename all at the end, in their order, or remove all on an error.

    Ctrl-C is held back while files are renamed. Should the process be killed between two renames, some files
    are new and some old.

    Parameters
    ----------
    paths : sequence of str or Path
        Paths of the files to write or replace. Their folders are made if they are not there.

    Yields
    ------
    list of Path
        Temporary paths in the same folders, to write to.
    """
    targets = [Path(path) for path in paths]
    temporaries: list[Path] = []
    try:
        for path in targets:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
            os.close(handle)
            temporaries.append(Path(name))
        yield temporaries
        with _interrupts_held_back():
            for temporary, path in zip(temporaries, targets, strict=True):
                os.chmod(temporary, FILE_MODE)  # mkstemp makes files that others cannot read
                os.replace(temporary, path)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file whole or not at all; text is written as UTF-8, its line ends unchanged."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


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
