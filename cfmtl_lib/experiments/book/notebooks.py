"""Lets papermill read the text notebooks: ``papermill notebooks/07_table4.md out.ipynb``.

papermill reads only ``.ipynb`` by itself, and chooses who reads a path by how the path *begins*. The entry
point ``notebooks/`` of the group ``papermill.io`` (see ``pyproject.toml``) hands paths that begin so to
:class:`TextNotebookHandler`, hence the command has to be given from the repository root, without ``./``
and without an absolute path. From elsewhere, or for any other path, convert first::

    jupytext --to ipynb --output - PATH/07_table4.md | papermill - out.ipynb

Whatever papermill reads so carries a fingerprint of the code that it is about to run
(:func:`code_fingerprint`), by which the book knows whether a page shows the present code, and the commit, the
versions and the machine, which the book's status page shows.

papermill only logs a parameter that it does not know, hence each notebook checks its own.
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
"""Where the metadata of a notebook hold ``{"fingerprint": ..., "commit": ..., "versions": ...}``."""

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
    """SHA-256 of everything, the notebook itself aside, that the outputs of a notebook depend on.

    Parameters
    ----------
    root : str or Path
        Root of the repository, which holds ``cfmtl_lib/`` and ``results/``.

    Returns
    -------
    str
        Hexadecimal digest of the names and bytes of the library's sources, the numbers reported in the
        paper and the published results.
    """
    root = Path(root)
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _HASHED for path in root.glob(pattern)}):
        digest.update(f"{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def check_parameters(namespace: Mapping[str, object], known: Collection[str]) -> None:
    """Refuse a parameter that a notebook does not have, for papermill only logs it.

    To be called in the first code cell after the parameters, before anything else is defined there.

    Parameters
    ----------
    namespace : mapping
        The notebook's ``globals()``.
    known : collection of str
        Names of its parameters.

    Raises
    ------
    UnknownNameError
        Naming the first unknown parameter and listing the known ones.

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
    """A ``papermill.io`` handler: papermill's own for local files, except that ``.md`` is converted.

    papermill registers the class, not an instance, hence the static methods.
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
