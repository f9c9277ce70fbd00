"""Time and memory of one study with all nine methods: the library against the plain reference loop.

Both run here, in turn, each in a process of its own, on the same ratings, with the same number of threads, on
the CPU. The reference covers ONE scenario (coupon), the library BOTH (coupon and cash) in the same time,
so the printed ratios are lower bounds: for the second scenario the reference would run again.

    python benchmarks/table4_speed.py --dataset ml-1m --data-dir PATH --results-dir results
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import reference_loop
import torch
from scipy.special import expit

from cfmtl_lib.datasets.catalog import CATALOG
from cfmtl_lib.datasets.ratings import Ratings, load_ratings
from cfmtl_lib.datasets.semisynthetic import semisynthetic
from cfmtl_lib.methods import METHODS, fit_methods
from cfmtl_lib.policy import allocate, count_outcomes
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.results import RunRecord, save_results
from cfmtl_lib.strata import SCENARIOS

SCENARIOS_COVERED = {"library": "coupon and cash", "reference": "coupon"}
SIMULATED = "simulated-ratings"

Rewards = dict[str, dict[str, float]]


class StageClock:
    """Seconds of each stage of this process, and its peak memory up to the end of the stage."""

    def __init__(self, implementation: str) -> None:
        self.implementation = implementation
        self.stages: list[dict[str, Any]] = []

    def say(self, line: str) -> None:
        """One line of progress on stderr."""
        _say(f"{self.implementation}: {line}")

    def ended(self, stage: str, seconds: float) -> None:
        """Note a stage that has just ended."""
        self.stages.append(
            {
                "implementation": self.implementation,
                "stage": stage,
                "seconds": round(seconds, 3),
                "peak_memory_gb": round(peak_memory_gb(), 3),
            }
        )
        self.say(f"{stage} took {seconds:.1f} s")


def peak_memory_gb() -> float:
    """Largest resident memory of this process so far, in 10^9 bytes."""
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def simulated_ratings(
    n_users: int = 120, n_items: int = 110, n_ratings: int = 6600, seed: int = 0
) -> Ratings:
    """A small table of stars that users and items explain in part, for trials of the benchmark itself."""
    rng = np.random.default_rng([seed, 2])
    codes = rng.choice(n_users * n_items, size=n_ratings, replace=False)
    user, item = np.divmod(codes, n_items)
    liking = expit(rng.normal(0.3, 1, n_users)[user] + rng.normal(0, 1, n_items)[item])
    stars = 1 + rng.binomial(4, liking)
    return Ratings(user, item, stars, n_users=n_users, n_items=n_items, name=SIMULATED)


def run_library(ratings: Ratings, seed: int, clock: StageClock) -> dict[str, Any]:
    """One study and the nine methods in both scenarios, from one set of fits, as table4 runs them."""
    start = time.perf_counter()
    n_jobs = torch.get_num_threads()
    study = semisynthetic(ratings, "code", "authors", seed, device="cpu", n_jobs=n_jobs)
    clock.ended("construction", time.perf_counter() - start)

    start = time.perf_counter()
    rewards: Rewards = {}
    models = fit_methods(study, list(METHODS), device="cpu", seed=seed, n_jobs=n_jobs)
    for method, model in models.items():
        for scenario in SCENARIOS:
            treat = allocate(model.predict_reward(study.test.x, scenario, PAPER.cost), PAPER.budget)
            reward = count_outcomes(treat, study.test.stratum, scenario, PAPER.cost).reward
            rewards.setdefault(scenario, {})[method] = reward
            clock.say(f"{method}, {scenario}: {reward:,.0f}")
    clock.ended("methods", time.perf_counter() - start)
    return {"rewards": rewards}


def run_reference(ratings: Ratings, seed: int, clock: StageClock) -> dict[str, Any]:
    """One study and the nine methods in the coupon scenario, by the plain loop."""
    done = reference_loop.run(ratings, seed, on_stage=clock.ended, say=clock.say)
    return {"rewards": {"coupon": done.rewards}, "epochs": done.epochs}


IMPLEMENTATIONS: dict[str, Callable[[Ratings, int, StageClock], dict[str, Any]]] = {
    "library": run_library,
    "reference": run_reference,
}


def measure(implementation: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one implementation in this process; reading the ratings is not timed."""
    torch.set_num_threads(options.threads)
    clock = StageClock(implementation)
    if options.dataset == SIMULATED:
        ratings = simulated_ratings(seed=options.seed)
    else:
        ratings = load_ratings(options.dataset, options.data_dir, seed=options.seed)
    before = peak_memory_gb()
    clock.say(f"{ratings!r}, {options.threads} threads")
    found = IMPLEMENTATIONS[implementation](ratings, options.seed, clock)
    return {
        "stages": clock.stages,
        "peak_memory_gb_before_the_first_stage": round(before, 3),
        "fingerprint": ratings.fingerprint,
        **found,
    }


def measure_apart(implementation: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The same in a fresh process.

    A process starts with the peak of the one that started it, so this one must stay small: it reads no data.
    """
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), *arguments, "--only", implementation],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(arguments)
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return 0

    dataset = options.dataset if options.dataset in (*CATALOG, SIMULATED) else "PATH"
    folder = " --data-dir PATH" if options.data_dir is not None else ""
    record = RunRecord(
        command=f"python benchmarks/table4_speed.py --dataset {dataset}{folder} --results-dir results "
        f"--seed {options.seed} --threads {options.threads}",
        seeds=[options.seed],
    )
    runs = {name: measure_apart(name, arguments) for name in IMPLEMENTATIONS}
    table = pd.DataFrame([row for run in runs.values() for row in (*run["stages"], _total(run["stages"]))])
    files = save_results(
        {"table4_speed": table},
        Path(options.results_dir) / "benchmarks",
        record.finish(
            data_fingerprint=runs["library"]["fingerprint"],
            dataset=dataset,
            labelling="code",
            construction="authors",
            device="cpu",
            threads=options.threads,
            scenarios=SCENARIOS_COVERED,
            peak_memory_gb_before_the_first_stage={
                name: run["peak_memory_gb_before_the_first_stage"] for name, run in runs.items()
            },
            rewards={name: run["rewards"] for name, run in runs.items()},
            reference_epochs=runs["reference"]["epochs"],
        ),
    )
    print(report(table, {name: run["rewards"] for name, run in runs.items()}))
    _say("wrote " + ", ".join(map(str, files)))
    return 0


def report(table: pd.DataFrame, rewards: dict[str, Rewards]) -> str:
    """What the run says, in a few lines."""
    total = table[table["stage"] == "total"].set_index("implementation")
    seconds, memory = total["seconds"], total["peak_memory_gb"]
    coupon = pd.DataFrame({name: found["coupon"] for name, found in rewards.items()}).round(1)
    return "\n".join(
        [
            table.to_string(index=False),
            "",
            f"total time, reference / library: {seconds['reference'] / seconds['library']:.2f}",
            f"peak memory: library {memory['library']:.2f} GB, reference {memory['reference']:.2f} GB",
            "The reference covers one scenario (coupon), the library both (coupon and cash).",
            "",
            "Coupon rewards (one seed each, other random numbers):",
            coupon.to_string(),
        ]
    )


def _total(stages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "implementation": stages[0]["implementation"],
        "stage": "total",
        "seconds": round(sum(stage["seconds"] for stage in stages), 3),
        "peak_memory_gb": max(stage["peak_memory_gb"] for stage in stages),
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number >= 1, found {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Time and memory of one study with all nine methods: library against plain reference. "
        "The reference covers one scenario (coupon), the library both."
    )
    names = ", ".join((*CATALOG, SIMULATED))
    parser.add_argument("--dataset", default="ml-1m", help=f"{names}, or the path of a ratings table")
    parser.add_argument("--data-dir", help="folder that holds the file of the dataset")
    parser.add_argument("--results-dir", default="results", help="tables go to its folder benchmarks/")
    parser.add_argument("--threads", type=_positive, default=os.cpu_count() or 1, help="of both; all cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(IMPLEMENTATIONS), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
