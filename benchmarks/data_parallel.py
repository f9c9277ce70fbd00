"""Losses and seconds of CF-MTL by several processes that torchrun starts, against one process.

    torchrun --nproc-per-node 2 benchmarks/data_parallel.py --results-dir results

Every process simulates the same log and takes its part of each batch. Afterwards the first process fits
alone, by the plain path with one thread, as each of the others had.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from measuring import positive, say, seconds_of
from scaling import N_ITEMS, N_ROWS, N_USERS, simulated_log
from sklearn.exceptions import ConvergenceWarning

import cfmtl_lib as cf
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.provenance import RunRecord, save_results
from cfmtl_lib.runtime.threads import load_before_threads

EPOCHS = 3


def fit(log: cf.IncentiveLog, engine: str, parametrisation: str, seed: int) -> dict[str, Any]:
    """Measure the seconds of an epoch and the loss of each."""
    config = replace(
        PAPER.joint,
        max_epochs=EPOCHS,
        tolerance=0.0,
        patience=EPOCHS + 1,
        engine=engine,
        parametrisation=parametrisation,
    )
    model = cf.CFMTL(config=config, device="cpu", seed=seed)
    seconds = seconds_of(lambda: model.fit(log)) / EPOCHS
    return {"seconds": seconds, "losses": model.histories_["cells"].loss}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # a few epochs are no fit
    load_before_threads()
    log = simulated_log(options.rows, N_USERS, N_ITEMS, options.seed)
    small = log.take(np.arange(min(20_000, len(log))))
    fit(small, "data-parallel", "embeddings", options.seed)  # the processes meet before the clock runs
    n_processes = dist.get_world_size()
    folder = Path(options.results_dir) / "benchmarks"
    record = RunRecord(
        command=f"torchrun --nproc-per-node {n_processes} benchmarks/data_parallel.py --results-dir results "
        f"--rows {options.rows} --rounds {options.rounds} --seed {options.seed}",
        seeds=[options.seed],
        folder=folder,
    )
    together: list[dict[str, Any]] = []
    for turn in range(options.rounds):
        for parametrisation in ("embeddings", "additive"):
            found = fit(log, "data-parallel", parametrisation, options.seed)
            together.append({"parametrisation": parametrisation, "round": turn} | found)
    if dist.get_rank() != 0:
        return 0

    table = []
    for row in together:
        alone = fit(log, "torch", row["parametrisation"], options.seed)
        pairs = zip(row["losses"], alone["losses"], strict=True)
        table.append(
            {"parametrisation": row["parametrisation"], "round": row["round"], "processes": n_processes}
            | {"seconds_together": round(row["seconds"], 4), "seconds_alone": round(alone["seconds"], 4)}
            | {"largest_relative_difference": max(abs(a - b) / abs(b) for a, b in pairs)}
        )
        say(str(table[-1]))
    frame = pd.DataFrame(table)
    files = save_results(
        {"data_parallel": frame},
        folder,
        record.finish(
            data_fingerprint="simulated", device="cpu", log_rows=len(log), backend=dist.get_backend()
        ),
    )
    print(frame.to_string(index=False))
    say("wrote " + ", ".join(map(str, files)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="CF-MTL by several processes against one.")
    parser.add_argument("--results-dir", default="results", help="tables go to its folder benchmarks/")
    parser.add_argument("--rows", type=positive, default=N_ROWS)
    parser.add_argument("--rounds", type=positive, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
