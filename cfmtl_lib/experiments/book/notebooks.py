"""Support for text notebooks in papermill: ``papermill notebooks/07_table4.md out.ipynb``.

papermill reads only ``.ipynb`` by itself, and chooses the reader of a path by how the path *begins*. The
entry point ``notebooks/`` of the group ``papermill.io`` (see ``pyproject.toml``) sends paths that begin so to
:class:`TextNotebookHandler`. So run the command from the repository root, without ``./`` and without an
absolute path. From elsewhere, or for any other path, convert first::

    jupytext --to ipynb --output - PATH/07_table4.md | papermill - out.ipynb

A notebook read in this way carries a fingerprint of the code that it is about to run
(:func:`code_fingerprint`). The book compares it with the present code to see whether a page is up to date.
The notebook also carries the commit, the versions and the machine, which the book's status page shows.

papermill only logs a parameter that it does not know. So each notebook checks its own parameters.
papermill and jupytext belong to the extra ``book``: they are imported when they are needed.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cfmtl_lib.errors import check_choice
from cfmtl_lib.runtime.provenance import commit, environment

FINGERPRINT_KEY = "cfmtl"
"""Metadata key of a notebook that holds ``{"fingerprint": ..., "commit": ..., "versions": ...}``."""

_HASHED = (
    "cfmtl_lib/**/*.py",
    "cfmtl_lib/**/*.html",
    "cfmtl_lib/**/*.csv",
    "results/**/*.csv",
    "results/**/*.json",
)

# papermill imports this module before it reads anything; its remark that .md is not one of its own
# extensions comes ahead of the handler, and would have readers doubt a command that is right.
warnings.filterwarnings("ignore", message=r"The specified file \(.*\.md\) does not end in one of")


def code_fingerprint(root: str | Path) -> str:
    """Compute the SHA-256 of everything but the notebook itself that a notebook's outputs depend on.

    Parameters
    ----------
    root : str or Path
        Root of the repository, which holds ``cfmtl_lib/`` and ``results/``.

    Returns
    -------
    str
        Hexadecimal digest of names and bytes: the library's sources, the numbers reported in the paper,
        and the published results.
    """
    root = Path(root)
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _HASHED for path in root.glob(pattern)}):
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_parameters(namespace: Mapping[str, object], known: Collection[str]) -> None:
    """Refuse a parameter that a notebook does not have, because papermill only logs it.

    Call it in the first code cell after the parameters, before anything else is defined there.

    Parameters
    ----------
    namespace : mapping
        The notebook's ``globals()``.
    known : collection of str
        Names of its parameters.

    Raises
    ------
    UnknownNameError
        If a parameter is unknown; the message names it and lists the known ones.

    Examples
    --------
    >>> check_parameters({"seeds": 5, "sedes": 3}, known=["dataset", "seeds"])
    Traceback (most recent call last):
    ...
    cfmtl_lib.errors.UnknownNameError: notebook parameter: expected one of 'dataset', 'seeds', found 'sedes'.
    """
    of_ipython = {"In", "Out", "exit", "quit", "get_ipython", "open", "check_parameters"}
    for name in namespace:
        if not name.startswith("_") and name not in of_ipython:
            check_choice("notebook parameter", name, known)


class TextNotebookHandler:
    """Handler for ``papermill.io``: papermill's own for local files, except that ``.md`` is converted.

    Its methods are static because papermill registers the class, not an instance.
    """

    @staticmethod
    def read(path: str) -> str:
        """Return the notebook at ``path`` as JSON text of the format ``.ipynb``.

        Parameters
        ----------
        path : str
            A text notebook (``.md``), or any notebook that papermill reads by itself.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        """
        text = _local().read(path)
        if Path(path).suffix != ".md":
            return text
        import jupytext
        import nbformat

        notebook = jupytext.reads(text, fmt="md")
        # Without a kernel in its header papermill would refuse the notebook.
        notebook.metadata.setdefault(
            "kernelspec", {"name": "python3", "display_name": "Python 3", "language": "python"}
        )
        root = Path(path).resolve().parent.parent  # the notebooks lie in ROOT/notebooks
        notebook.metadata[FINGERPRINT_KEY] = {
            "fingerprint": code_fingerprint(root),
            **commit(),
            **environment(),
        }
        return nbformat.writes(notebook)

    @staticmethod
    def write(buf: str, path: str) -> None:
        """Write the text ``buf`` to the local file ``path``."""
        _local().write(buf, path)

    @staticmethod
    def listdir(path: str) -> list[str]:
        """Return the paths of the files in the local folder ``path``."""
        return _local().listdir(path)

    @staticmethod
    def pretty_path(path: str) -> str:
        """Return ``path`` as it is shown to the reader."""
        return _local().pretty_path(path)


def _local() -> Any:
    """Return papermill's registered handler for local files, which knows the folder to start from."""
    # Imported here because papermill, while it is being imported, loads this module.
    from papermill.iorw import papermill_io

    return papermill_io.get_handler("local")
