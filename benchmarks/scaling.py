"""Growth of time and memory with rows (in memory, in files), users and items, embedding length and seeds.

    python benchmarks/scaling.py --results-dir results

Every point is a separate process. It makes a log, as large as the training log of ML-1M times a factor, and
fits CF-MTL for a few epochs. Another process first writes the rows of files, a part at a time.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measuring import answer, load_kernels, peak_memory_gb, positive, run_in_process, say, seconds_of
from sklearn.exceptions import ConvergenceWarning

import cfmtl_lib as cf
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.provenance import RunRecord, save_results
from cfmtl_lib.runtime.threads import run_parallel
from cfmtl_lib.strata import observe

N_ROWS, N_USERS, N_ITEMS = 1_260_263, 6040, 3952
"""Size of the training log of a study on ML-1M."""

FACTORS: dict[str, tuple[float, ...]] = {
    "rows": (0.25, 0.5, 1, 2, 4, 8),
    "rows in files": (0.25, 0.5, 1, 2, 4, 8),
    "users and items": (0.25, 0.5, 1, 2, 4, 8),
    "embedding length": (0.125, 0.25, 0.5, 1, 2, 4),
    "seeds": (1, 2, 4, 8),
}
EPOCHS = 3
ROWS_A_FILE = 200_000


def simulated_rows(n: int, n_users: int, n_items: int, seed: int) -> pd.DataFrame:
    """Simulate a campaign whose strata depend on user and item; some users and items occur more often."""
    rng = np.random.default_rng([seed, 7])
    liking = np.random.default_rng(7)  # the same people whatever the part
    of_user, of_item = liking.normal(0, 1, (n_users, 5)), liking.normal(0, 1, (n_items, 5))
    user = (rng.random(n) ** 1.5 * n_users).astype(np.int64)
    item = (rng.random(n) ** 2 * n_items).astype(np.int64)
    noise = rng.gumbel(size=(n, 5))
    stratum = (of_user[user] + of_item[item] + noise).argmax(axis=1)
    t = (rng.random(n) < 1 / (1 + np.exp(-of_user[user, 0]))).astype(np.int8)
    c, y = observe(stratum, t)
    return pd.DataFrame({"user": user, "item": item, "treatment": t, "collected": c, "converted": y})


def parts_of(n: int, n_users: int, n_items: int, seed: int) -> Iterator[tuple[int, pd.DataFrame]]:
    """Simulate the rows by parts, to use little memory; yield each part and where it starts."""
    for part, start in enumerate(range(0, n, ROWS_A_FILE)):
        rows = simulated_rows(min(ROWS_A_FILE, n - start), n_users, n_items, seed * 1000 + part)
        yield start, rows


def simulated_log(n: int, n_users: int, n_items: int, seed: int) -> cf.IncentiveLog:
    """Simulate the rows as a log in memory."""
    x = np.empty((n, 2), np.int64)
    outcomes = np.empty((3, n), np.int8)
    for start, rows in parts_of(n, n_users, n_items, seed):
        x[start : start + len(rows)] = rows[["user", "item"]]
        outcomes[:, start : start + len(rows)] = rows[["treatment", "collected", "converted"]].T
    return cf.IncentiveLog(x, *outcomes, n_users=n_users, n_items=n_items)  # type: ignore[misc]


def write(n: int, folder: Path, seed: int) -> None:
    """Write the rows to files of :data:`ROWS_A_FILE` rows."""
    for start, rows in parts_of(n, N_USERS, N_ITEMS, seed):
        file = folder / f"part-{start // ROWS_A_FILE:04}.parquet"
        pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), file)


def measure(axis: str, factor: float, folder: Path, seed: int, threads: int, n_rows: int) -> dict[str, Any]:
    """Measure seconds of an epoch of CF-MTL and peak memory at one point; ``n_rows`` at factor 1."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)  # a few epochs are no fit
    load_kernels()
    n_users, n_items, k, n_seeds = N_USERS, N_ITEMS, PAPER.joint.embedding_k, 1
    if axis.startswith("rows"):
        n_rows = round(factor * n_rows)
    elif axis == "users and items":
        n_users, n_items = round(factor * N_USERS), round(factor * N_ITEMS)
    elif axis == "embedding length":
        k = round(factor * k)
    else:
        n_seeds = round(factor)
    log: cf.IncentiveLog | cf.ParquetLog
    if axis == "rows in files":
        log = cf.ParquetLog(folder, n_users=n_users, n_items=n_items)
    else:
        log = simulated_log(n_rows, n_users, n_items, seed)
    config = replace(PAPER.joint, max_epochs=EPOCHS, tolerance=0.0, patience=EPOCHS + 1, embedding_k=k)
    jobs = [
        partial(cf.CFMTL(config=config, device="cpu", seed=seed + turn).fit, log) for turn in range(n_seeds)
    ]
    seconds = seconds_of(lambda: run_parallel(jobs, threads)) / EPOCHS
    return {
        "rows": len(log),
        "users": n_users,
        "items": n_items,
        "embedding_k": k,
        "seeds": n_seeds,
        "seconds_an_epoch": round(seconds, 4),
        "peak_memory_gb": round(peak_memory_gb(), 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(arguments)
    if options.only:
        kind, axis, factor, folder = options.only.split(":", 3)
        n_rows = round(N_ROWS * options.share)
        found: dict[str, Any] = {}
        if kind == "write":
            write(round(float(factor) * n_rows), Path(folder), options.seed)
        else:
            found = measure(axis, float(factor), Path(folder), options.seed, options.threads, n_rows)
        answer(found)
        return 0

    folder = Path(options.results_dir) / "benchmarks"
    record = RunRecord(
        command=f"python benchmarks/scaling.py --results-dir results --rounds {options.rounds} "
        f"--threads {options.threads} --seed {options.seed} --share {options.share}",
        seeds=[options.seed],
        folder=folder,
    )
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for axis, factors in FACTORS.items():
            for factor in factors:
                folder = Path(scratch) / f"{factor}"
                if axis == "rows in files":
                    folder.mkdir()
                    run_in_process(__file__, arguments, f"write:{axis}:{factor}:{folder}")
                for turn in range(options.rounds):
                    found = run_in_process(__file__, arguments, f"measure:{axis}:{factor}:{folder}")
                    rows.append({"axis": axis, "factor": factor, "round": turn} | found)
                    say(f"{axis} x {factor}: {rows[-1]}")
    table = pd.DataFrame(rows)
    files = save_results(
        {"scaling": table},
        folder,
        record.finish(
            data_fingerprint="simulated", device="cpu", threads=options.threads, epochs_a_fit=EPOCHS
        ),
    )
    print(report(table))
    say("wrote " + ", ".join(map(str, files)))
    return 0


def report(table: pd.DataFrame) -> str:
    """Format medians by axis and factor."""
    medians = table.groupby(["axis", "factor"], sort=False)[["seconds_an_epoch", "peak_memory_gb"]].median()
    return medians.to_string()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="How time and memory of CF-MTL grow.")
    parser.add_argument("--results-dir", default="results", help="tables go to its folder benchmarks/")
    parser.add_argument("--threads", type=positive, default=os.cpu_count() or 1, help="fits side by side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=positive, default=2)
    parser.add_argument("--share", type=float, default=1.0, help="of all rows, for trials")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
