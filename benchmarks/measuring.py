"""Shared parts of the benchmarks: clocks, peak memory, separate processes, simulated ratings."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning

from cfmtl_lib.datasets.catalog import CATALOG
from cfmtl_lib.datasets.construction import semisynthetic
from cfmtl_lib.datasets.ratings import Ratings, load_ratings
from cfmtl_lib.experiments.methods import fit_methods
from cfmtl_lib.protocol import PAPER, ConstructionFits
from cfmtl_lib.runtime.engine_log import EngineLog, note_engines
from cfmtl_lib.runtime.threads import load_before_threads

SIMULATED = "simulated-ratings"


def say(line: str) -> None:
    """Print one line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def peak_memory_gb() -> float:
    """Return the largest resident memory of this process so far, in 10^9 bytes."""
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def seconds_of(work: Callable[[], object]) -> float:
    """Measure the wall time of a call, in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run_in_process(script: str, arguments: Sequence[str], part: str) -> dict[str, Any]:
    """Run ``script --only part`` in a separate process and return the JSON that it prints.

    A process starts with the peak memory of the one that started it. So the calling process must stay small.
    """
    done = subprocess.run(
        [sys.executable, str(Path(script).resolve()), *arguments, "--only", part],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    note_engines(found.pop("engines"))
    return found


_engines = EngineLog()


def answer(found: dict[str, Any]) -> None:
    """Print what one part found, with the engines of its fits, for :func:`run_in_process`."""
    print(json.dumps(found | {"engines": sorted(_engines.engines)}))


def simulated_ratings(
    n_users: int = 120, n_items: int = 110, n_ratings: int = 6600, seed: int = 0
) -> Ratings:
    """Simulate a small table of ratings, explained in part by users and items, to try the benchmarks."""
    rng = np.random.default_rng([seed, 2])
    codes = rng.choice(n_users * n_items, size=n_ratings, replace=False)
    user, item = np.divmod(codes, n_items)
    liking = expit(rng.normal(0.3, 1, n_users)[user] + rng.normal(0, 1, n_items)[item])
    stars = 1 + rng.binomial(4, liking)
    return Ratings(user, item, stars, n_users=n_users, n_items=n_items, name=SIMULATED)


def load_kernels() -> float:
    """Let numba compile its kernels or load them from its cache; return the seconds that took.

    Loading is done once in a process, and compiling once on a machine. Neither is part of a fit's time.
    """
    protocol = replace(
        PAPER,
        construction={
            name: ConstructionFits(
                replace(pair.labelling, max_epochs=1), replace(pair.assignment, max_epochs=1)
            )
            for name, pair in PAPER.construction.items()
        },
    )

    def small_fits() -> None:
        study = semisynthetic(simulated_ratings(30, 20, 300), device="cpu", protocol=protocol)
        fit_methods(study, ["OR", "CF-MTL"], device="cpu", max_epochs=1)

    load_before_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one epoch is no fit
        return seconds_of(small_fits)


def ratings_of(options: argparse.Namespace) -> Ratings:
    """Load the ratings that the options of a command name."""
    if options.dataset == SIMULATED:
        return simulated_ratings(seed=options.seed)
    return load_ratings(options.dataset, options.data_dir, seed=options.seed)


def public_command(script: str, options: argparse.Namespace, *more: str) -> str:
    """Write the command that makes the numbers again, without the paths of this machine."""
    folder = ["--data-dir PATH"] if options.data_dir is not None else []
    words = [
        f"python benchmarks/{Path(script).name} --dataset {public_name(options.dataset)}",
        *folder,
        "--results-dir results",
        f"--seed {options.seed} --threads {options.threads} --rounds {options.rounds}",
        *more,
    ]
    return " ".join(words)


def public_name(dataset: str) -> str:
    """Give the dataset's name, or PATH for a path."""
    return dataset if dataset in (*CATALOG, SIMULATED) else "PATH"


def positive(text: str) -> int:
    """Read a whole number of at least 1 from the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, found {text}")
    return value


def parser_of(description: str, *, rounds: int) -> argparse.ArgumentParser:
    """Make a parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    names = ", ".join((*CATALOG, SIMULATED))
    parser.add_argument("--dataset", default="ml-1m", help=f"{names}, or the path of a ratings table")
    parser.add_argument("--data-dir", help="folder that holds the file of the dataset")
    parser.add_argument("--results-dir", default="results", help="tables go to its folder benchmarks/")
    parser.add_argument("--threads", type=positive, default=os.cpu_count() or 1, help="all cores if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=positive, default=rounds, help="of everything, in turn")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser
