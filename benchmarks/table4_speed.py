"""Time and memory of one study with the paper's eight methods: the library against the plain reference loop.

Three implementations run in turn: the reference, the library, and the library with additive parameters. Each
runs in a separate process on the CPU, with the same ratings and the same number of threads. Additive
parameters are an option that is not the paper's. They also fit its construction, so its rewards are of other
data. In the measured time the reference covers ONE scenario (coupon), the library BOTH (coupon and cash). So
the printed ratios are lower bounds: for the second scenario the reference would run again.

    python benchmarks/table4_speed.py --dataset ml-1m --data-dir PATH --results-dir results
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import reference_loop
import torch
from measuring import (
    answer,
    load_kernels,
    parser_of,
    peak_memory_gb,
    public_command,
    public_name,
    ratings_of,
    run_in_process,
    say,
)

from cfmtl_lib.datasets.construction import semisynthetic
from cfmtl_lib.datasets.ratings import Ratings
from cfmtl_lib.experiments.methods import METHODS, fit_methods
from cfmtl_lib.experiments.paper.reported import V1
from cfmtl_lib.policy.allocation import allocate
from cfmtl_lib.policy.rewards import SCENARIOS, count_outcomes
from cfmtl_lib.protocol import PAPER, ConstructionFits, Protocol
from cfmtl_lib.runtime.provenance import RunRecord, save_results

EIGHT = [name for name in METHODS if name != V1]
"""The methods of the paper; the ninth is the reproduction report's."""

SCENARIOS_COVERED = {"reference": "coupon", "library": "coupon and cash", "additive": "coupon and cash"}

Rewards = dict[str, dict[str, float]]


class StageClock:
    """Seconds of each stage of this process, and its peak memory up to the end of the stage."""

    def __init__(self, implementation: str) -> None:
        self.implementation = implementation
        self.stages: list[dict[str, Any]] = []

    def say(self, line: str) -> None:
        """Print one line of progress on stderr."""
        say(f"{self.implementation}: {line}")

    def ended(self, stage: str, seconds: float) -> None:
        """Note a stage that has just ended."""
        self.stages.append(
            {"stage": stage, "seconds": round(seconds, 3), "peak_memory_gb": round(peak_memory_gb(), 3)}
        )
        self.say(f"{stage} took {seconds:.1f} s")


def protocol_with(**fit_settings: Any) -> Protocol:
    """Copy the published settings, changed in the two fits of the construction."""
    fits = {
        name: ConstructionFits(
            replace(pair.labelling, **fit_settings), replace(pair.assignment, **fit_settings)
        )
        for name, pair in PAPER.construction.items()
    }
    return replace(PAPER, construction=fits)


def run_library(
    ratings: Ratings, seed: int, clock: StageClock, fit_settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Run one study and the eight methods in both scenarios, from one set of fits, as table4 does."""
    start = time.perf_counter()
    n_jobs = torch.get_num_threads()
    protocol = protocol_with(**fit_settings)
    study = semisynthetic(ratings, "code", "authors", seed, device="cpu", n_jobs=n_jobs, protocol=protocol)
    clock.ended("construction", time.perf_counter() - start)

    start = time.perf_counter()
    rewards: Rewards = {}
    models = fit_methods(study, EIGHT, device="cpu", seed=seed, n_jobs=n_jobs, **fit_settings)
    for method, model in models.items():
        for scenario in SCENARIOS:
            treat = allocate(model.predict_reward(study.test.x, scenario, PAPER.cost), PAPER.budget)
            reward = count_outcomes(treat, study.test.stratum, scenario, PAPER.cost).reward
            rewards.setdefault(scenario, {})[method] = reward
            clock.say(f"{method}, {scenario}: {reward:,.0f}")
    clock.ended("methods", time.perf_counter() - start)
    return {"rewards": rewards}


def run_reference(ratings: Ratings, seed: int, clock: StageClock) -> dict[str, Any]:
    """Run one study and the eight methods in the coupon scenario, by the plain loop."""
    done = reference_loop.run(ratings, seed, two_stage=False, on_stage=clock.ended, say=clock.say)
    return {"rewards": {"coupon": done.rewards}, "epochs": done.epochs}


IMPLEMENTATIONS: dict[str, Callable[[Ratings, int, StageClock], dict[str, Any]]] = {
    "reference": run_reference,
    "library": partial(run_library, fit_settings={}),
    "additive": partial(run_library, fit_settings={"parametrisation": "additive"}),
}


def measure(implementation: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one implementation in this process; reading the ratings is not timed."""
    torch.set_num_threads(options.threads)
    clock = StageClock(implementation)
    ratings = ratings_of(options)
    load_kernels()  # and what torch imports at the first optimiser, for the reference too
    before = peak_memory_gb()
    clock.say(f"{ratings!r}, {options.threads} threads")
    found = IMPLEMENTATIONS[implementation](ratings, options.seed, clock)
    return {
        "stages": [*clock.stages, _total(clock.stages)],
        "peak_memory_gb_before_the_first_stage": round(before, 3),
        "fingerprint": ratings.fingerprint,
        **found,
    }


def _total(stages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "stage": "total",
        "seconds": round(sum(stage["seconds"] for stage in stages), 3),
        "peak_memory_gb": max(stage["peak_memory_gb"] for stage in stages),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(arguments)
    if options.only:
        answer(measure(options.only, options))
        return 0

    folder = Path(options.results_dir) / "benchmarks"
    record = RunRecord(public_command(__file__, options), [options.seed], folder)
    rows, runs = [], {}
    for turn in range(options.rounds):
        for name in IMPLEMENTATIONS:
            runs[name] = run_in_process(__file__, arguments, name)
            rows += [{"implementation": name, "round": turn} | stage for stage in runs[name]["stages"]]
    table = pd.DataFrame(rows)
    rewards = {name: run["rewards"] for name, run in runs.items()}
    files = save_results(
        {"table4_speed": table},
        folder,
        record.finish(
            data_fingerprint=runs["library"]["fingerprint"],
            dataset=public_name(options.dataset),
            labelling="code",
            construction="authors",
            methods=EIGHT,
            device="cpu",
            threads=options.threads,
            scenarios=SCENARIOS_COVERED,
            peak_memory_gb_before_the_first_stage={
                name: run["peak_memory_gb_before_the_first_stage"] for name, run in runs.items()
            },
            rewards=rewards,
            reference_epochs=runs["reference"]["epochs"],
        ),
    )
    print(report(table, rewards))
    say("wrote " + ", ".join(map(str, files)))
    return 0


def report(table: pd.DataFrame, rewards: Mapping[str, Rewards]) -> str:
    """Summarise the run in a few lines."""
    median = table.groupby(["stage", "implementation"], sort=False)["seconds"].median().unstack(sort=False)
    ratios = median.div(median["reference"], axis=0).rdiv(1).round(2)
    memory = table.groupby("implementation")["peak_memory_gb"].max()
    coupon = pd.DataFrame({name: found["coupon"] for name, found in rewards.items()}).round(1)
    return "\n".join(
        [
            f"Median seconds of {table['round'].nunique()} rounds:",
            median.round(2).to_string(),
            "",
            "How many times faster than the reference (one scenario there, both here):",
            ratios.to_string(),
            "",
            "Peak memory, GB: " + ", ".join(f"{name} {gb:.2f}" for name, gb in memory.items()),
            "",
            "Coupon rewards (one seed, other random numbers than the reference):",
            coupon.to_string(),
        ]
    )


def _parser() -> argparse.ArgumentParser:
    return parser_of(
        "Time and memory of one study with the paper's eight methods: library against plain reference. "
        "The reference covers one scenario (coupon), the library both.",
        rounds=3,
    )


if __name__ == "__main__":
    sys.exit(main())
