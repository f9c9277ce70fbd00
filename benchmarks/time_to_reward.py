"""Reward of CF-MTL by seconds of training, batch size, learning rate and parametrisation.

    python benchmarks/time_to_reward.py --dataset ml-1m --data-dir PATH --results-dir results

After every epoch the clock stops while the model is judged. One measure is the loss on held-out rows of the
log, which a real log would show too. The other is the reward on the test pairs, on which no choice may rest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measuring import load_kernels, parser_of, public_command, public_name, ratings_of, say

import cfmtl_lib as cf
from cfmtl_lib.datasets.study import Study
from cfmtl_lib.estimators.likelihood import cell_log_likelihood
from cfmtl_lib.models.config import FitConfig, History
from cfmtl_lib.models.losses import CellNetwork
from cfmtl_lib.models.pair_networks import AdditiveNetwork, predict_probability
from cfmtl_lib.models.training import derive_generator, minimise, new_network
from cfmtl_lib.nuisances.pair_nuisances import training_columns
from cfmtl_lib.policy.rewards import SCENARIOS
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.provenance import RunRecord, save_results
from cfmtl_lib.runtime.threads import one_torch_thread
from cfmtl_lib.strata import STRATA

HELD_OUT = 0.05
"""Share of the training log that is held out to judge the model."""

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "batch 2048": {"batch_size": 2048},
    "batch 32768": {"batch_size": 32768},
    "decay 0.9": {"learning_rate_decay": 0.9},
    "decay 0.8": {"learning_rate_decay": 0.8},
    "rate 0.03, decay 0.8": {"learning_rate": 0.03, "learning_rate_decay": 0.8},
    "additive": {"parametrisation": "additive"},
    "additive, rate 0.03, decay 0.8": {
        "parametrisation": "additive",
        "learning_rate": 0.03,
        "learning_rate_decay": 0.8,
    },
}


def curve(study: Study, config: FitConfig, seed: int) -> list[dict[str, float]]:
    """Measure seconds, losses and rewards after each epoch of CF-MTL."""
    log, device = study.train, resolve_device("cpu")
    aside = np.random.default_rng([seed, 5]).random(len(log)) < HELD_OUT
    learnt, judge = log.take(~aside), log.take(aside)
    generator = derive_generator(seed, "time to reward", device)
    network = CellNetwork(
        strata=new_network(
            AdditiveNetwork, log.pair_space, config, generator=generator, n_outputs=len(STRATA)
        ),
        propensity=new_network(AdditiveNetwork, log.pair_space, config, generator=generator),
        weights=PAPER.joint_weights,
        propensity_floor=PAPER.joint_propensity_floor,
        propensity_weight=PAPER.propensity_weight,
    )
    columns = training_columns(learnt, lambda rows: rows.cell, device, torch.int8)
    judge_columns: Any = training_columns(judge, lambda rows: rows.cell, device, torch.int8)
    rows: list[dict[str, float]] = []
    trained, resumed = 0.0, time.perf_counter()

    def judged(history: History) -> None:
        nonlocal trained, resumed
        trained += time.perf_counter() - resumed
        strata = network.pair_network("strata")
        likelihood = cell_log_likelihood(predict_probability(strata, judge.x), judge).mean()
        with torch.no_grad():
            held_out_loss = network.loss(*judge_columns) / len(judge)
        p = predict_probability(strata, study.test.x)
        rewards = {}
        for scenario in SCENARIOS:
            treat = cf.allocate(cf.expected_reward(p, scenario, PAPER.cost), PAPER.budget)
            rewards[scenario] = cf.count_outcomes(treat, study.test.stratum, scenario, PAPER.cost).reward
        rows.append(
            {"epoch": history.n_epochs, "seconds": round(trained, 4)}
            | {"loss": history.loss[-1], "held_out_loss": held_out_loss.item()}
            | {"held_out_log_likelihood": float(likelihood)}
            | rewards
        )
        resumed = time.perf_counter()

    minimise(
        network,
        network.loss,
        columns,
        config,
        generator=generator,
        label="CF-MTL",
        after_epoch=judged,
    )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    folder = Path(options.results_dir) / "benchmarks"
    record = RunRecord(public_command(__file__, options), range(options.rounds), folder)
    ratings = ratings_of(options)
    load_kernels()
    rows: list[dict[str, Any]] = []
    for seed in range(options.rounds):
        study = cf.semisynthetic(ratings, seed=seed, device="cpu", n_jobs=options.threads)
        for variant, change in VARIANTS.items():
            with one_torch_thread():
                found = curve(study, replace(PAPER.joint, **change), seed)
            rows += [{"variant": variant, "seed": seed} | row for row in found]
            last = found[-1]
            say(f"seed {seed}, {variant}: {last['epoch']} epochs, {last['seconds']:.1f} s")
    table = pd.DataFrame(rows)
    files = save_results(
        {"time_to_reward": table},
        folder,
        record.finish(
            data_fingerprint=ratings.fingerprint,
            dataset=public_name(options.dataset),
            labelling="code",
            construction="authors",
            device="cpu",
            threads=1,
            variants=VARIANTS,
            held_out=HELD_OUT,
        ),
    )
    print(report(table))
    say("wrote " + ", ".join(map(str, files)))
    return 0


def report(table: pd.DataFrame) -> str:
    """Summarise the end of each fit, as means over seeds."""
    last = table.groupby(["variant", "seed"], sort=False).tail(1)
    columns = ["epoch", "seconds", "held_out_loss", *SCENARIOS]
    return last.groupby("variant", sort=False)[columns].mean().to_string()


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("What CF-MTL earns after how many seconds of training.", rounds=3)
    parser.epilog = "--rounds counts seeds here: 0, 1, ..."
    return parser


if __name__ == "__main__":
    sys.exit(main())
