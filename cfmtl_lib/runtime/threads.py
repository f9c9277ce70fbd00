"""Parallel fits: several at a time, each on one thread.

On a few cores, two parallel fits on one thread each are much faster than two successive fits on two threads.
The steps of these small networks leave little to divide among threads. A fit on one thread also gives the
same bits whatever else runs, since sums depend on how they are split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, copy_context
from typing import TypeVar

import joblib
import torch
from threadpoolctl import threadpool_limits

from cfmtl_lib.checks import MOST_JOBS, check_count

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
"""Number of rows below which fits of scikit-learn run on one thread.

Threads gain little there. Where other work keeps the cores busy, they wait for one another so long that a fit
of a second takes minutes."""


def threads_for(n_rows: int) -> AbstractContextManager:
    """Limit scikit-learn to one thread on few rows; do not limit it on many."""
    return threadpool_limits(None if n_rows >= ROWS_FOR_THREADS else 1)


def one_thread_beside(others: bool) -> AbstractContextManager:
    """Limit scikit-learn and LightGBM to one thread where other fits keep the cores busy.

    With a thread for each core in each of two fits, boosting of many rows takes many times as long.
    """
    return threadpool_limits(1 if others else None)


def load_before_threads() -> None:
    """Import the modules that torch imports at the first optimiser; call this before threads that fit.

    That import parses source code, which CPython 3.11 cannot do in two threads at once. It sometimes
    ends with "SystemError: AST constructor recursion depth mismatch".
    """
    torch.optim.Adam([torch.nn.Parameter(torch.empty(0))])


def run_parallel(jobs: Sequence[Callable[[], Result]], n_jobs: int) -> list[Result]:
    """Run jobs, ``n_jobs`` at a time in threads of joblib, each with one torch thread.

    Parameters
    ----------
    jobs : sequence of callable
        Functions without arguments.
    n_jobs : int
        Number of jobs that run at a time.

    Returns
    -------
    list
        Results in the order of the jobs.

    Notes
    -----
    If a job fails, or on Ctrl-C, the error is raised when the jobs that are running have ended.

    Examples
    --------
    >>> run_parallel([lambda: 1, lambda: 2, lambda: 3], n_jobs=2)
    [1, 2, 3]
    """

    def alone(job: Callable[[], Result], context: Context) -> Result:
        torch.set_num_threads(1)  # a setting of the thread that runs the job
        return context.run(job)

    n_jobs = check_count(n_jobs, "n_jobs", most=MOST_JOBS)
    with one_torch_thread():
        if n_jobs == 1 or len(jobs) <= 1:
            return [job() for job in jobs]
        load_before_threads()
        return joblib.Parallel(min(n_jobs, len(jobs)), backend="threading")(
            joblib.delayed(alone)(job, copy_context())  # what is noted around this call stays so
            for job in jobs
        )
