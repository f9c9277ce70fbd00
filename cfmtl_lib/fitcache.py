"""Fits kept on disk, so that a long run goes on where it stopped and tables share what they have in common.

A fit is found again by everything that it depends on: the content of its data, its settings, its
seed, the kind of device, torch's version, and the code. Nothing has to be cleared by hand; a folder of
kept fits may be deleted at any time.
"""

from __future__ import annotations

import ast
import hashlib
import time
from collections.abc import Callable
from functools import cache as cached_function
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import joblib
import torch

from cfmtl_lib.results import commit

Value = TypeVar("Value")

CODE_OF_FITS = (
    "cells",
    "cfmtl",
    "datasets/semisynthetic",
    "datasets/simulated",
    "datasets/study",
    "networks",
    "nuisances",
    "protocol",
    "strata",
    "training",
)
"""The modules whose code decides what a fit finds."""


class Kept(NamedTuple):
    """One fit with where it comes from."""

    value: Any
    seconds: float
    commit: str | None
    commit_is_clean: bool | None


class FitCache:
    """Calls a function, or hands out what it returned when it was called for the same thing before.

    Parameters
    ----------
    folder : str or Path, optional
        Where fits are kept, with joblib.Memory (which writes whole files or none). Nothing is kept if
        left out.

    Attributes
    ----------
    used : list of Kept
        Each fit handed out, in the order of use; made now or found.

    Examples
    --------
    >>> cache = FitCache()
    >>> cache(lambda: 1 + 1, fit="sum")
    2
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.keeps = folder is not None
        memory = joblib.Memory(folder, verbose=0)
        self._call = memory.cache(_timed, ignore=["make"])
        self.used: list[Kept] = []

    def __call__(self, make: Callable[[], Value], **key: object) -> Value:
        """Return ``make()``, or what it returned for this key before.

        Parameters
        ----------
        make : callable
        **key
            All that the value depends on, the code aside.
        """
        kept = self._call({name: repr(value) for name, value in key.items()} | _surroundings(), make)
        self.used.append(kept)
        return kept.value

    def provenance(self) -> dict[str, Any]:
        """Commits that made the fits handed out so far, how many there were, and the seconds they took."""
        distinct = {id(kept): kept for kept in self.used}.values()
        return {
            "fits": len(distinct),
            "fit_seconds": round(sum(kept.seconds for kept in distinct), 1),
            "fit_commits": sorted(
                {f"{kept.commit}{'' if kept.commit_is_clean else ' with changes'}" for kept in distinct}
            ),
        }


def content_hash(*parts: object) -> str:
    """Hash of the content of arrays and plain objects.

    Examples
    --------
    >>> content_hash([1, 2]) == content_hash([1, 2]) != content_hash([2, 1])
    True
    """
    return joblib.hash(parts)


def _timed(key: dict[str, str], make: Callable[[], Any]) -> Kept:
    start = time.perf_counter()
    value = make()
    return Kept(value, time.perf_counter() - start, *_commit_at_start())


@cached_function
def _commit_at_start() -> tuple[str | None, bool | None]:
    facts = commit()
    return facts["commit"], facts["commit_is_clean"]


@cached_function
def _surroundings() -> dict[str, str]:
    folder = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for name in CODE_OF_FITS:
        tree = ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):  # what a docstring says changes no fit
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [  # type: ignore[attr-defined]
                    statement
                    for statement in body
                    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
                ]
        digest.update(f"{name} {ast.dump(tree)}".encode())
    return {"code": digest.hexdigest(), "torch": torch.__version__}
