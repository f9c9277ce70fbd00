"""Engines that took the steps of fits, noted while fits run and read by whoever writes provenance."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class EngineLog:
    """Engines of all fits of this process since the log was made, whatever thread they run in.

    Attributes
    ----------
    engines : set of str
        Names such as ``"compiled, numba 0.68.1"``.
    """

    def __init__(self) -> None:
        self.engines: set[str] = set()
        with _lock:
            _logs.add(self)


_lock = threading.Lock()
_logs: weakref.WeakSet[EngineLog] = weakref.WeakSet()
_around: ContextVar[tuple[set[str], ...]] = ContextVar("engines of the fits around", default=())


def note_engines(engines: Iterable[str]) -> None:
    """Note engines in all logs, and in the blocks of :func:`engines_inside` around the caller."""
    names = set(engines)
    with _lock:  # fits run in threads, and a set that changes cannot be walked through
        for noted in (*(log.engines for log in list(_logs)), *_around.get()):
            noted.update(names)


@contextmanager
def engines_inside() -> Iterator[set[str]]:
    """Collect the engines of the fits inside the block only, not of fits in other threads.

    :func:`~cfmtl_lib.runtime.threads.run_parallel` passes the block on to the threads that it starts.

    Yields
    ------
    set of str
        Engines noted so far.

    Examples
    --------
    >>> with engines_inside() as engines:
    ...     note_engines(["autograd, 1 thread"])
    >>> engines
    {'autograd, 1 thread'}
    """
    engines: set[str] = set()
    token = _around.set((*_around.get(), engines))
    try:
        yield engines
    finally:
        _around.reset(token)
