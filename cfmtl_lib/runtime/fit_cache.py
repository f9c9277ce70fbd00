"""Cache of fits on disk: a stopped run resumes, and tables share the fits that they have in common.

The key of a fit is everything that it depends on: content of the data, settings, seed, kind of device and
engine. It includes the number of threads, the versions of torch, numba and LightGBM, and the code. The cache
need not be cleared by hand; its folder may be deleted at any time. Files hold arrays and JSON, as saved
models do: nothing in them is run.
"""

from __future__ import annotations

import ast
import hashlib
import time
import warnings
from collections.abc import Callable, Mapping
from functools import cache as cached_function
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import joblib
import torch

from cfmtl_lib.errors import ModelFileError
from cfmtl_lib.runtime.containers import read_container, write_container
from cfmtl_lib.runtime.devices import numba_version, resolve_device
from cfmtl_lib.runtime.engine_log import engines_inside, note_engines
from cfmtl_lib.runtime.provenance import commit
from cfmtl_lib.runtime.values import ValueDecoder, ValueEncoder

Value = TypeVar("Value")

FORMAT = "cfmtl_lib fit 1"

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
            Function without arguments that fits. To be stored, its result consists of numbers, texts, arrays,
            parts marked by :func:`~cfmtl_lib.runtime.registry.storable`, and lists, tuples and dictionaries
            of these.
        **key
            Everything that the value depends on, except the code. Networks are read to the ``device``.

        Warns
        -----
        FitCacheWarning
            If the file of a fit is damaged, which is then fitted again, or if nothing can be stored. A cache
            never ends a run.
        """
        name = joblib.hash(
            {part: repr(value) for part, value in key.items()} | self._surroundings | _threads()
        )
        path = None if self.folder is None else self.folder / f"{name}.safetensors"
        kept = None if path is None else _read(path, name, key.get("device"))
        if kept is not None:
            note_engines(kept.engines)
        else:
            start = time.perf_counter()
            with engines_inside() as engines:
                value = make()
            seconds = time.perf_counter() - start
            kept = Kept(value, seconds, *self._commit, tuple(sorted(engines)))
            if path is not None:
                _write(kept, path, name)
        self.used[name] = Origin(*kept[1:])
        return kept.value


class FitCacheWarning(UserWarning):
    """A stored fit that cannot be used, or a fit that cannot be stored."""


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


def _read(path: Path, name: str, device: object) -> Kept | None:
    """Read the fit of a key; None if there is none that can be used."""
    try:
        if not path.is_file():
            return None
        container = read_container(path, "the cache of fits")
        header = container.header
        if (header.get("format"), header.get("fit")) != (FORMAT, name):
            raise ModelFileError(str(path), expected=f"{FORMAT} {name}", found="another fit or format")
        decoder = ValueDecoder(
            container.arrays, resolve_device(device if isinstance(device, str) else "auto")
        )
        origin = header["origin"]
        origin["engines"] = tuple(map(str, origin["engines"]))
        return Kept(decoder.value(header["value"]), **origin)
    except Exception as error:  # of whatever kind: the fit can be made again
        warnings.warn(
            f"Stored fit {path} cannot be used, and is fitted again: {error}", FitCacheWarning, stacklevel=3
        )
        return None


_folders_warned_of: set[Path] = set()


def _write(kept: Kept, path: Path, name: str) -> None:
    """Store a fit, or warn once for the folder that it cannot be stored."""
    try:
        encoder = ValueEncoder()
        header = {
            "format": FORMAT,
            "fit": name,
            "origin": Origin(*kept[1:])._asdict(),
            "value": encoder.value(kept.value, "value"),
        }
        write_container(path, header, encoder.arrays)
    except Exception as error:  # a run must not end for want of a cache
        if path.parent not in _folders_warned_of:
            _folders_warned_of.add(path.parent)
            warnings.warn(
                f"Fits are not stored in {path.parent}: {type(error).__name__}: {error}. The run goes on. "
                "Make room, give yourself the right to write there, or name another folder.",
                FitCacheWarning,
                stacklevel=3,
            )


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
    return {
        "code": digest.hexdigest(),
        "torch": str(torch.__version__),
        "numba": str(numba_version()),
        "lightgbm": version("lightgbm"),
    }
