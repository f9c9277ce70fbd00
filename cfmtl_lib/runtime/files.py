"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside a path; rename it to the path at the end, remove it on an error.

    Parameters
    ----------
    path : str or Path
        Of the file to write or replace. Its folder is made if it is not there.

    Yields
    ------
    Path
        To write to.

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
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that others cannot read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file whole or not at all; text is UTF-8 with lines that end as they are."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
