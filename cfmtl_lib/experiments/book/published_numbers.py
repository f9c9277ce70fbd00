"""Numbers that prose quotes, each with the file in results/ that it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cfmtl_lib.experiments.methods import METHODS, TWINS
from cfmtl_lib.experiments.paper.baselines import summary_of
from cfmtl_lib.experiments.paper.comparison import NO_DATA, verdicts
from cfmtl_lib.experiments.paper.reported import (
    lead_of_v1,
    paired_differences,
)
from cfmtl_lib.policy.rewards import SCENARIOS
from cfmtl_lib.runtime.provenance import load_results


@dataclass(frozen=True)
class Fact:
    """A number for prose.

    Attributes
    ----------
    text : str
        The number as it is printed.
    source : str
        Source file of the number, below the results folder, e.g. ``"ml-1m/table4.csv"``.
    """

    text: str
    source: str


def facts(results_root: str | Path) -> dict[str, Fact]:
    """Collect the numbers that the prose of the book and of README.md quotes, by name.

    Parameters
    ----------
    results_root : str or Path
        Folder of the published results.

    Returns
    -------
    dict of str to Fact

    Raises
    ------
    ResultsError
        If a file is missing, or is not the one that its provenance describes.
    """
    root = Path(results_root)
    found: dict[str, Fact] = {}
    collectors = (
        _facts_of_tables,
        _facts_of_methods,
        _facts_of_learners,
        _facts_of_values,
        _facts_of_cost,
        _facts_of_speed,
    )
    for collect in collectors:
        found |= collect(root)
    return found


def _as_facts(texts: Mapping[str, Mapping[str, str]]) -> dict[str, Fact]:
    """Turn texts by source and name into facts by name, with minus signs instead of hyphens."""
    return {
        name: Fact(re.sub(r"-(?=\d)", "−", text), source)
        for source, part in texts.items()
        for name, text in part.items()
    }


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _between(shares: pd.Series[float], text: Callable[[float], str] = _percent) -> str:
    return f"{text(shares.min())} to {text(shares.max())}"


def _facts_of_tables(root: Path) -> dict[str, Fact]:
    table = verdicts(root)
    four = table[(table["table"] == "4") & (table["verdict"] != NO_DATA)]
    six = table[(table["table"] == "6") & (table["verdict"] != NO_DATA)]
    seen = six[~six["verdict"].str.startswith("not identified")]
    blind = six[six["verdict"].str.startswith("not identified")].set_index("scenario")
    texts = {
        "ml-1m/table4.csv": {
            "table4-numbers": f"{len(four)}",
            "table4-reproduced": f"{(four['verdict'] == 'reproduced').sum()}",
            "table4-mean-percent": f"{four['percent'].abs().mean():.1f} %",
            "table4-largest-percent": f"{four['percent'].abs().max():.1f} %",
            "table4-seeds": f"{int(four['seeds'].min())}",
            "table4-missing": f"{((table['table'] == '4') & (table['verdict'] == NO_DATA)).sum()}",
        },
        "ml-1m/table5_6.csv": {
            "table6-numbers": f"{len(seen)}",
            "table6-reproduced": f"{(seen['verdict'] == 'reproduced').sum()}",
            "table6-largest-percent": f"{seen['percent'].abs().max():.1f} %",
        }
        | {
            f"table6-unidentified-{scenario}": f"{row['lowest']:,.0f} to {row['highest']:,.0f}"
            for scenario, row in blind.iterrows()
        }
        | {f"table6-printed-{scenario}": f"{row['printed']:,.0f}" for scenario, row in blind.iterrows()},
    }
    return _as_facts(texts)


def _facts_of_methods(root: Path) -> dict[str, Fact]:
    table, _ = load_results(root / "ml-1m", "table4")
    lead = lead_of_v1(table)["mean"].xs("code", level="labelling").unstack("part")
    data = lead[["data (CF-MTL on both)", "data (v1 on both)"]].div(lead["lead"], axis=0).melt()["value"]
    under_text = paired_differences(table, {"CF-OR": "CF-MTL"}).xs("text", level="labelling")
    twins, nets = (
        paired_differences(table, pairs).xs("code", level="labelling")
        for pairs in (TWINS, {f"{base}-net": base for base in TWINS.values()})
    )
    gain = twins["difference"].rename(index={name: f"{base}-net" for name, base in TWINS.items()})
    had = nets["difference"] / gain
    texts = {
        "v1-lead-from-data": _between(data),
        "twins-positive": f"{(twins['difference'] > 2 * twins['se']).sum()} of {len(twins)}",
    }
    for scenario in SCENARIOS:
        texts[f"net-share-{scenario}"] = _between(had.xs(scenario, level="scenario"))
        part = under_text.xs(scenario, level="scenario")
        for construction, row in part.droplevel("method").iterrows():
            lead_here = f"{row['difference']:+,.0f} ± {row['se']:,.0f}"
            texts[f"text-cf-or-lead-{scenario}-{construction}"] = lead_here
    return _as_facts({"ml-1m/table4.csv": texts})


def _facts_of_learners(root: Path) -> dict[str, Fact]:
    """Collect the largest mean rewards of learners on the construction of the authors' code."""
    rows, _ = load_results(root / "ml-1m", "baselines")
    summary = summary_of(rows[rows["construction"] == "authors"])
    response = summary["method"].str.contains("given response")
    texts = {
        "learner-seeds": f"{int(summary['seeds'].min())}",
        "learners": f"{summary.loc[~response, 'method'].nunique()}",
    }
    for (rule, scenario), part in summary.groupby(["labelling", "scenario"], sort=False):
        sorts = {
            "best": part[~response[part.index]],
            "without-strata": part[~part["strata"]],
            "given-response": part[response[part.index]],
            "v1": part[part["method"] == "CF-MTL-v1"],
            "tarnet": part[part["method"] == "TARNet"],
        }
        for sort, among in sorts.items():
            best = among.nlargest(1, "mean").iloc[0]
            name = f"learner-{sort}-{rule}-{scenario}"
            texts[name] = f"{best['mean']:,.0f} ± {best['se']:,.0f}"
            texts[f"{name}-name"] = best["method"]
    return _as_facts({"ml-1m/baselines.csv": texts})


def _facts_of_values(root: Path) -> dict[str, Fact]:
    values, _ = load_results(root / "ml-1m", "policy_values")
    values = values[values["method"].isin(METHODS)]
    z = (values["estimate"] - values["true_reward"]) / values["standard_error"]
    within = (z.abs() <= 3)[values["nuisances"] == "known"]
    additive = values["nuisances"] == "additive"
    mean_z = z[additive].groupby(values["construction"]).mean()
    sums = values[additive].groupby("construction")[["estimate", "true_reward"]].sum()
    off = sums["estimate"] / sums["true_reward"] - 1
    coverage, _ = load_results(root / "monte_carlo", "coverage")
    texts = {
        "ml-1m/policy_values.csv": {
            "values-known-within": f"{within.sum()} of {len(within)}",
            "values-additive-z": _between(mean_z, lambda z: f"{z:.0f}"),
            "values-additive-percent": _between(off),
        },
        "monte_carlo/coverage.csv": {
            "coverage": _between(coverage["coverage"], lambda share: f"{100 * share:.1f} %"),
            "coverage-logs": f"{int(coverage['replications'].iloc[0]):,}",
        },
    }
    return _as_facts(texts)


def _facts_of_cost(root: Path) -> dict[str, Fact]:
    _, record = load_results(root / "ml-1m", "table4")
    table, _ = load_results(root / "ml-1m", "table4")
    studies = len(table[["labelling", "construction", "seed"]].drop_duplicates())
    texts = {
        "table4-studies": f"{studies}",
        "table4-fits": f"{record['fits']:,}",
        "table4-core-seconds": f"{record['fit_seconds'] / studies:,.0f} s",
        "table4-machine": f"{record['machine']['cores']} cores and {record['machine']['memory_gib']:.0f} GiB",
    }
    return _as_facts({"ml-1m/table4.csv": texts})


def _facts_of_speed(root: Path) -> dict[str, Fact]:
    speed, _ = load_results(root / "benchmarks", "table4_speed")
    total = speed[speed["stage"] == "total"].groupby("implementation")
    seconds, memory = total["seconds"].median(), total["peak_memory_gb"].max()
    same, _ = load_results(root / "benchmarks", "same_results")
    moved = ((same["mean_now"] - same["mean_before"]) / same["standard_error"]).abs()
    scaling, _ = load_results(root / "benchmarks", "scaling")
    files = scaling[scaling["axis"] == "rows in files"].groupby("rows")["peak_memory_gb"].median()
    texts = {
        "benchmarks/table4_speed.csv": {
            "speed-library": f"{seconds['reference'] / seconds['library']:.1f}",
            "speed-additive": f"{seconds['reference'] / seconds['additive']:.1f}",
            "speed-library-seconds": f"{seconds['library']:.0f} s",
            "speed-memory": f"{memory['library']:.2f} GB",
        },
        "benchmarks/same_results.csv": {
            "speed-largest-move": f"{moved.max():.2f}",
            "speed-moves": f"{len(moved)}",
        },
        "benchmarks/scaling.csv": {
            "files-rows": f"{files.index.max() / 1e6:.0f} million",
            "files-memory": f"{files[files.index.max()]:.2f} GB",
        },
    }
    return _as_facts(texts)
