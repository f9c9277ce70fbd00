"""Every reward that the paper's tables print, ours beside it; and the numbers that prose quotes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cfmtl_lib.errors import check_choice
from cfmtl_lib.methods import METHODS, TWINS
from cfmtl_lib.pictures import Picture, picture, styled
from cfmtl_lib.plots import plot_ranking
from cfmtl_lib.reported import (
    V1,
    compare_ablations,
    compare_with_reported,
    lead_of_v1,
    paired_differences,
    printed_from,
    reported_table4,
    reported_table5_6,
)
from cfmtl_lib.results import load_results
from cfmtl_lib.strata import SCENARIOS

TOLERANCE = 3.0
"""Percent of a printed reward by which our mean over seeds may differ and still count as reproduced."""

NO_DATA = "data not available here"
COLUMNS = [
    "table", "dataset", "scenario", "row", "construction", "printed", "mean", "sd", "seeds", "lowest",
    "highest", "percent", "verdict", "file", "command",
]  # fmt: skip

_TABLE_OF_ABLATIONS = {"yelp": "5", "ml-1m": "6"}
_NOTEBOOKS = {"table4": "07_table4", "table5_6": "08_tables5_6"}


def verdicts(results_root: str | Path) -> pd.DataFrame:
    """Compare every printed reward of Tables 4, 5 and 6 with the published results.

    A mean within :data:`TOLERANCE` percent of print is "reproduced". The fit without both untreated terms is
    not identified (see the chapter on Tables 5 and 6): there the question is whether the printed value lies
    within what our seeds give.

    Parameters
    ----------
    results_root : str or Path
        Folder with ``<dataset>/table4.csv`` and ``<dataset>/table5_6.csv``, as far as they are there.

    Returns
    -------
    DataFrame
        70 rows, one for each printed reward: the 54 of Table 4, and two scenarios for each of the 8 rows of
        Tables 5 and 6. Columns :data:`COLUMNS`; rewards in conversions; mean, sd, lowest and highest over
        seeds, NaN without data; ``percent`` of the printed value; ``file`` below ``results_root``;
        ``command`` makes the number again, or for the first time.

    Raises
    ------
    ResultsError
        If a file of results is not the one that its provenance describes.
    """
    root = Path(results_root)
    rows = [*_table4_rows(root), *_ablation_rows(root)]
    return pd.DataFrame(rows, columns=COLUMNS)


def verdict(row: Mapping[str, float], *, identified: bool = True) -> str:
    """What is to be said of one comparison.

    Examples
    --------
    >>> verdict({"percent": -2.1, "printed": 100, "lowest": 96, "highest": 99})
    'reproduced'
    >>> verdict({"percent": -40, "printed": 100, "lowest": 20, "highest": 130}, identified=False)
    'not identified; the printed value lies within our seeds'
    """
    if not identified:
        inside = row["lowest"] <= row["printed"] <= row["highest"]
        return f"not identified; the printed value lies {'within' if inside else 'outside'} our seeds"
    return "reproduced" if abs(row["percent"]) <= TOLERANCE else "not reproduced"


def command_for(table: str, dataset: str) -> str:
    """The command that makes a table on a dataset, for a reader who has the file.

    Examples
    --------
    >>> command_for("table4", "yelp").split(" -p ")[:2]
    ['papermill notebooks/07_table4.md out.ipynb', 'dataset yelp']
    """
    notebook = _NOTEBOOKS[check_choice("table", table, tuple(_NOTEBOOKS))]
    return (
        f"papermill notebooks/{notebook}.md out.ipynb -p dataset {dataset} -p data_dir PATH -p seeds 10 "
        "-p results_dir results"
    )


def _table4_rows(root: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for dataset, printed in reported_table4().groupby("dataset", sort=False):
        found = _published(root, str(dataset), "table4")
        compared = _with_range(found) if found is not None else None
        for scenario, method, reward in printed[["scenario", "method", "reward"]].itertuples(index=False):
            base = {
                "table": "4",
                "dataset": dataset,
                "scenario": scenario,
                "row": method,
                "construction": printed_from(method),
                "printed": reward,
            }
            ours = compared.loc[(scenario, method)] if compared is not None else None
            rows.append(base | _judged(base, ours, "table4", identified=True))
    return rows


def _ablation_rows(root: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for dataset, printed in reported_table5_6().groupby("dataset", sort=False):
        found = _published(root, str(dataset), "table5_6")
        compared = compare_ablations(found, str(dataset)) if found is not None else None
        for key in printed[["scenario", "keeps_001", "keeps_000", "reward"]].itertuples(index=False):
            left_out = [name for name, kept in (("L_001", key[1]), ("L_000", key[2])) if not kept]
            base = {
                "table": _TABLE_OF_ABLATIONS[str(dataset)],
                "dataset": dataset,
                "scenario": key[0],
                "row": f"{V1} without {' and '.join(left_out)}" if left_out else V1,
                "construction": printed_from(V1),
                "printed": key[3],
            }
            ours = compared.loc[key[:3]] if compared is not None else None
            rows.append(base | _judged(base, ours, "table5_6", identified=len(left_out) < 2))
    return rows


def _with_range(table: pd.DataFrame) -> pd.DataFrame:
    """Comparison with print, and the lowest and the highest reward over seeds."""
    dataset = str(table["dataset"].iloc[0])
    ours = table[
        (table["labelling"] == "code") & (table["construction"] == table["method"].map(printed_from))
    ]
    ends = ours.groupby(["scenario", "method"])["reward"].agg(lowest="min", highest="max")
    return compare_with_reported(table, dataset).join(ends)


def _judged(
    base: Mapping[str, object], ours: pd.Series | None, table: str, *, identified: bool
) -> dict[str, object]:
    command = command_for(table, str(base["dataset"]))
    if ours is None:
        return {"seeds": 0, "verdict": NO_DATA, "file": "", "command": command}
    numbers = {name: ours[name] for name in ("mean", "sd", "seeds", "lowest", "highest", "percent")}
    said = verdict({**numbers, "printed": ours["reported"]}, identified=identified)
    return {**numbers, "verdict": said, "file": f"{base['dataset']}/{table}.csv", "command": command}


def _published(root: Path, dataset: str, table: str) -> pd.DataFrame | None:
    if not (root / dataset / f"{table}.csv").is_file():
        return None
    return load_results(root / dataset, table)[0]


def ranking(results_root: str | Path) -> Picture:
    """The order of the nine methods on MovieLens 1M under each labelling, construction and scenario.

    Raises
    ------
    ResultsError
        If ``ml-1m/table4.csv`` is missing, or is not the one that its provenance describes.
    """
    published, _ = load_results(Path(results_root) / "ml-1m", "table4")
    keys = ["labelling", "construction", "scenario"]
    nine = published[published["method"].isin(METHODS)]
    settings = list(nine[keys].drop_duplicates().itertuples(index=False, name=None))
    means = nine.pivot_table(index="method", columns=keys, values="reward").loc[list(METHODS)][settings]
    order = zip(means.columns.to_list(), means.idxmax(), strict=True)
    first = "; ".join(f"{method} ({' '.join(setting)})" for setting, method in order)
    named = means.set_axis(["\n".join(key) for key in means.columns], axis=1)
    with styled():
        figure = plot_ranking(named, ["CF-MTL-v1", "CF-MTL", "CF-OR", "OR", "Naive"])
    figure.axes[0].set_xlabel("labelling, construction, scenario")
    return picture(
        figure,
        "Ranks of the nine methods by mean reward on MovieLens 1M, a line a method, a column for each "
        f"labelling, construction and scenario. First: {first}.",
    )


@dataclass(frozen=True)
class Fact:
    """A number for prose.

    Attributes
    ----------
    text : str
        As it is printed.
    source : str
        File below the results folder that it is computed from, e.g. ``"ml-1m/table4.csv"``.
    """

    text: str
    source: str


def facts(results_root: str | Path) -> dict[str, Fact]:
    """The numbers that the prose of the book and of README.md quotes, by name.

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
    for collect in (_facts_of_tables, _facts_of_methods, _facts_of_values, _facts_of_cost, _facts_of_speed):
        found |= collect(root)
    return found


def _as_facts(texts: Mapping[str, Mapping[str, str]]) -> dict[str, Fact]:
    """Facts by name, from texts by source and name; with a minus sign where there was a hyphen."""
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
