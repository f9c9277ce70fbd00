"""Cache of fits on disk: a stopped run resumes, and tables share the fits that they have in common.

The key of a fit is everything that it depends on: content of the data, settings, seed, kind of device and
engine. It includes the number of threads, the versions of torch and numba, and the code. The cache need not
be cleared by hand; its folder may be deleted at any time.
"""

from __future__ import annotations

import ast
import hashlib
import time
from collections.abc import Callable, Mapping
from functools import cache as cached_function
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import joblib
import torch

from cfmtl_lib.errors import ResultsError
from cfmtl_lib.runtime.devices import numba_version
from cfmtl_lib.runtime.engine_log import engines_inside, note_engines
from cfmtl_lib.runtime.files import replacing
from cfmtl_lib.runtime.provenance import commit

Value = TypeVar("Value")

CODE_OF_FITS = (
    "checks.py",
    "datasets",
    "estimators",
    "logs",
    "models",
    "nuisances",
    "policy",
    "protocol.py",
    "strata.py",
)
"""Folders and files of the library whose code can change the result of a fit."""


class Kept(NamedTuple):
    """Cached fit with its provenance; see :class:`Origin`."""

    value: Any
    seconds: float
    commit: str | None
    commit_is_clean: bool | None
    engines: tuple[str, ...]


class Origin(NamedTuple):
    """Provenance of a fit: seconds, commit, whether the commit was clean, and the engines of its steps."""

    seconds: float
    commit: str | None
    commit_is_clean: bool | None
    engines: tuple[str, ...]


class FitCache:
    """Cache that calls a function, or returns its earlier result for the same key.

    Parameters
    ----------
    folder : str or Path, optional
        Folder of the cache, with a file for each fit, written whole or not at all. No cache if left out.

    Attributes
    ----------
    used : dict of str to Origin
        Provenance of each fit that was returned, by the hash of its key.

    Examples
    --------
    >>> cache = FitCache()
    >>> cache(lambda: 1 + 1, fit="sum")
    2
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.used: dict[str, Origin] = {}
        # Read now: sources may be edited, and commits made, while fits run.
        self._surroundings, self._commit = _surroundings(), _commit_at_start()

    @property
    def keeps(self) -> bool:
        """True if there is a folder."""
        return self.folder is not None

    def __call__(self, make: Callable[[], Value], **key: object) -> Value:
        """Return ``make()``, or its earlier result for this key.

        Parameters
        ----------
        make : callable
            Function without arguments that fits.
        **key
            Everything that the value depends on, except the code.

        Raises
        ------
        ResultsError
            If the file of a cached fit cannot be read.
        """
        name = joblib.hash(
            {part: repr(value) for part, value in key.items()} | self._surroundings | _threads()
        )
        path = None if self.folder is None else self.folder / f"{name}.pkl"
        if path is not None and path.is_file():
            kept = _read(path)
            note_engines(kept.engines)
        else:
            start = time.perf_counter()
            with engines_inside() as engines:
                value = make()
            seconds = time.perf_counter() - start
            kept = Kept(value, seconds, *self._commit, tuple(sorted(engines)))
            if path is not None:
                _write(kept, path)
        self.used[name] = Origin(*kept[1:])
        return kept.value


def provenance_of_fits(used: Mapping[str, Origin]) -> dict[str, Any]:
    """Summarise the provenance of fits: their number, seconds of fitting, and commits."""
    return {
        "fits": len(used),
        "fit_seconds": round(sum(origin.seconds for origin in used.values()), 1),
        "fit_commits": sorted(
            {
                f"{origin.commit}{'' if origin.commit_is_clean else ' with changes'}"
                for origin in used.values()
            }
        ),
    }


def _threads() -> dict[str, str]:
    """Count the threads of torch now: by them autograd on a CPU splits its sums."""
    return {"threads": str(torch.get_num_threads())}


def _read(path: Path) -> Kept:
    try:
        return joblib.load(path)
    except Exception as error:
        raise ResultsError(
            f"kept fit {path}",
            expected="a file that joblib can read",
            found=f"{type(error).__name__}: {error}",
            advice="Delete the file: the fit is made again.",
        ) from error


def _write(kept: Kept, path: Path) -> None:
    with replacing(path) as temporary:
        joblib.dump(kept, temporary)


def content_hash(*parts: object) -> str:
    """Hash the content of arrays and plain objects.

    Examples
    --------
    >>> content_hash([1, 2]) == content_hash([1, 2]) != content_hash([2, 1])
    True
    """
    return joblib.hash(parts)


@cached_function
def _commit_at_start() -> tuple[str | None, bool | None]:
    facts = commit()
    return facts["commit"], facts["commit_is_clean"]


@cached_function
def _surroundings() -> dict[str, str]:
    folder = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    sources = (path for name in CODE_OF_FITS for path in (folder / name, *(folder / name).rglob("*.py")))
    for path in sorted(path for path in sources if path.is_file()):
        name = path.relative_to(folder).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):  # what a docstring says changes no fit
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [  # type: ignore[attr-defined]
                    statement
                    for statement in body
                    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
                ]
        digest.update(f"{name} {ast.dump(tree)}".encode())
    return {"code": digest.hexdigest(), "torch": str(torch.__version__), "numba": str(numba_version())}
