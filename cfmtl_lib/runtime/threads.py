"""Fits side by side: each on one thread, several at a time.

On a few cores, two fits on one thread each finish well before one fit on two threads after the other, for the
steps of these small networks leave little to share out. A fit on one thread also gives the same bits
whatever runs beside it, since sums depend on how they are split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import joblib
import torch
from threadpoolctl import threadpool_limits

Result = TypeVar("Result")


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


ROWS_FOR_THREADS = 100_000
"""Smaller fits of scikit-learn run on one thread: threads gain little there, and where other work keeps the
cores busy they wait for one another so long that a fit of a second takes minutes."""


def threads_for(n_rows: int) -> AbstractContextManager:
    """One thread for scikit-learn on few rows, all on many."""
    return threadpool_limits(None if n_rows >= ROWS_FOR_THREADS else 1)


def load_before_threads() -> None:
    """Have torch import what it imports at the first optimiser, to be called before threads that fit.

    That import parses source code, which CPython 3.11 cannot do in two threads at once: now and then it
    ends with "SystemError: AST constructor recursion depth mismatch".
    """
    torch.optim.Adam([torch.nn.Parameter(torch.empty(0))])


def run_parallel(jobs: Sequence[Callable[[], Result]], n_jobs: int) -> list[Result]:
    """Run jobs, ``n_jobs`` at a time in threads of joblib, each with one torch thread.

    Parameters
    ----------
    jobs : sequence of callable
    n_jobs : int

    Returns
    -------
    list
        Results in the order of the jobs.

    Examples
    --------
    >>> run_parallel([lambda: 1, lambda: 2, lambda: 3], n_jobs=2)
    [1, 2, 3]
    """

    def alone(job: Callable[[], Result]) -> Result:
        torch.set_num_threads(1)  # a setting of the thread that runs the job
        return job()

    with one_torch_thread():
        if n_jobs == 1 or len(jobs) == 1:
            return [job() for job in jobs]
        load_before_threads()
        return joblib.Parallel(min(n_jobs, len(jobs)), backend="threading")(
            joblib.delayed(alone)(job) for job in jobs
        )
