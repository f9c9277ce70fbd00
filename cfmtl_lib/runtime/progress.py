"""Progress of long work on stderr: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 20.0


def track(steps: Iterable[Item], *, total: int | None, label: str, enabled: bool = True) -> Iterator[Item]:
    """Yield the steps and report their progress on stderr.

    Parameters
    ----------
    steps : iterable
    total : int or None
        Number of steps, if known.
    label : str
        Name of the work.
    enabled : bool
        True to report progress.

    Examples
    --------
    >>> list(track("ab", total=2, label="letters", enabled=False))
    ['a', 'b']
    """
    if not enabled:
        yield from steps
    elif sys.stderr.isatty():
        yield from tqdm(steps, total=total, desc=label)
    else:
        yield from _plain(steps, total, label)


def _plain(steps: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
    start = last = time.monotonic()
    of = "" if total is None else f"/{total}"
    for done, step in enumerate(steps, start=1):
        yield step
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES or done == total:
            print(f"{label}: {done}{of} done after {now - start:.0f} s", file=sys.stderr, flush=True)
            last = now
