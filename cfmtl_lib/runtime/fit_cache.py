"""Fits kept on disk, so that a long run goes on where it stopped and tables share what they have in common.

A fit is found again by everything that it depends on: the content of its data, its settings, its
seed, the kind of device, the versions of torch and numba, and the code. Nothing has to be cleared by hand; a
folder of kept fits may be deleted at any time.
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
from cfmtl_lib.runtime.files import replacing
from cfmtl_lib.runtime.provenance import commit

Value = TypeVar("Value")

CODE_OF_FITS = ("datasets", "estimators", "logs", "models", "nuisances", "policy", "protocol.py", "strata.py")
"""Folders and files of the library whose code can decide what a fit finds."""


class Kept(NamedTuple):
    """One fit with where it comes from."""

    value: Any
    seconds: float
    commit: str | None
    commit_is_clean: bool | None


class Origin(NamedTuple):
    """Where a fit comes from, without the fit."""

    seconds: float
    commit: str | None
    commit_is_clean: bool | None


class FitCache:
    """Calls a function, or hands out what it returned when it was called for the same thing before.

    Parameters
    ----------
    folder : str or Path, optional
        Where fits are kept, a file each, written whole or not at all. Nothing is kept if left out.

    Attributes
    ----------
    used : dict of str to Origin
        Where each fit handed out comes from, by the hash of its key.

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
        """Whether there is a folder."""
        return self.folder is not None

    def __call__(self, make: Callable[[], Value], **key: object) -> Value:
        """Return ``make()``, or what it returned for this key before.

        Parameters
        ----------
        make : callable
        **key
            All that the value depends on, the code aside.

        Raises
        ------
        ResultsError
            If the file of a kept fit cannot be read.
        """
        name = joblib.hash({part: repr(value) for part, value in key.items()} | self._surroundings)
        path = None if self.folder is None else self.folder / f"{name}.pkl"
        if path is not None and path.is_file():
            kept = _read(path)
        else:
            start = time.perf_counter()
            kept = Kept(make(), time.perf_counter() - start, *self._commit)
            if path is not None:
                _write(kept, path)
        self.used[name] = Origin(*kept[1:])
        return kept.value


def provenance_of_fits(used: Mapping[str, Origin]) -> dict[str, Any]:
    """How many fits, the seconds that they took when they were made, and the commits that made them."""
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
    """Hash of the content of arrays and plain objects.

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
