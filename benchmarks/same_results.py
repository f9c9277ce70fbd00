"""Comparison of a new run of Table 4 with the published one: means over seeds, in standard errors.

    python benchmarks/same_results.py --before results/ml-1m --now _build/results/ml-1m --results-dir results

It compares the rows that both runs have, for the nine methods of the table. It uses labelling "code" only:
there the strata are labelled as in the authors' code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from measuring import say

from cfmtl_lib.experiments.methods import METHODS
from cfmtl_lib.runtime.provenance import RunRecord, load_results, save_results

KEY = ["construction", "scenario", "method"]


def compare(before: pd.DataFrame, now: pd.DataFrame) -> pd.DataFrame:
    """Compare the means of both runs by the standard error over seeds of the earlier one."""
    tables = {}
    for name, table in (("before", before), ("now", now)):
        chosen = table[(table["labelling"] == "code") & table["method"].isin(METHODS)]
        tables[name] = chosen.groupby(KEY, sort=False)["reward"]
    found = pd.DataFrame(
        {"seeds": tables["before"].count(), "mean_before": tables["before"].mean()}
        | {"mean_now": tables["now"].mean(), "standard_error": tables["before"].sem()}
    )
    return found.dropna().reset_index()


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    folder = Path(options.results_dir) / "benchmarks"
    record = RunRecord(
        command="python benchmarks/same_results.py --before results/ml-1m --now _build/results/ml-1m "
        "--results-dir results",
        seeds=[],
        folder=folder,
    )
    before, of_before = load_results(options.before, "table4")
    now, of_now = load_results(options.now, "table4")
    table = compare(before, now)
    runs: dict[str, dict[str, Any]] = {
        name: {key: run[key] for key in ("command", "commit", "commit_is_clean", "versions", "wall_seconds")}
        for name, run in (("before", of_before), ("now", of_now))
    }
    files = save_results(
        {"same_results": table},
        folder,
        record.finish(data_fingerprint=of_now["data_fingerprint"], runs=runs),
    )
    moved = (table["mean_now"] - table["mean_before"]) / table["standard_error"]
    print(table.assign(moved=moved.round(2)).round(1).to_string(index=False))
    say("wrote " + ", ".join(map(str, files)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Two runs of Table 4, compared in standard errors.")
    parser.add_argument("--before", required=True, help="folder of the published table4.csv")
    parser.add_argument("--now", required=True, help="folder of the new one")
    parser.add_argument("--results-dir", default="results", help="tables go to its folder benchmarks/")
    return parser


if __name__ == "__main__":
    sys.exit(main())
