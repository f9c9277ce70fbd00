"""Comparison of every reward that the paper's tables print with ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from cfmtl_lib.errors import check_choice
from cfmtl_lib.experiments.methods import METHODS
from cfmtl_lib.experiments.paper.reported import (
    V1,
    compare_ablations,
    compare_with_reported,
    printed_from,
    reported_table4,
    reported_table5_6,
)
from cfmtl_lib.figures.charts import plot_ranking
from cfmtl_lib.figures.style import Picture, picture, styled
from cfmtl_lib.runtime.provenance import load_results

TOLERANCE = 3.0
"""Percent of a printed reward by which our mean over seeds may differ and still count as reproduced."""

NO_DATA = "data not available here"
COMPARISON_COLUMNS = [
    "table", "dataset", "scenario", "row", "construction", "printed", "mean", "sd", "seeds", "lowest",
    "highest", "percent", "verdict", "file", "command",
]  # fmt: skip

_TABLE_OF_ABLATIONS = {"yelp": "5", "ml-1m": "6"}
_NOTEBOOKS = {"table4": "07_table4", "table5_6": "08_tables5_6"}


def verdicts(results_root: str | Path) -> pd.DataFrame:
    """Compare every printed reward of Tables 4, 5 and 6 with the published results.

    A mean within :data:`TOLERANCE` percent of print is "reproduced". The fit without both untreated terms is
    not identified (see the chapter on Tables 5 and 6). There the question is whether the printed value lies
    within the range of our seeds.

    Parameters
    ----------
    results_root : str or Path
        Folder with those files ``<dataset>/table4.csv`` and ``<dataset>/table5_6.csv`` that exist.

    Returns
    -------
    DataFrame
        70 rows, one for each printed reward. They are the 54 of Table 4, and two scenarios for each of the
        8 rows of Tables 5 and 6. Columns :data:`COMPARISON_COLUMNS`, rewards in conversions. Columns
        ``mean``, ``sd``, ``lowest`` and ``highest`` are over seeds, NaN without data. ``percent`` is
        relative to the printed value. ``file`` is below ``results_root``. ``command`` makes the number
        again, or for the first time.

    Raises
    ------
    ResultsError
        If a file of results is not the one that its provenance describes.
    """
    root = Path(results_root)
    rows = [*_table4_rows(root), *_ablation_rows(root)]
    return pd.DataFrame(rows, columns=COMPARISON_COLUMNS)


def verdict(row: Mapping[str, float], *, identified: bool = True) -> str:
    """Put the verdict on one comparison into words.

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
    """Write the command that makes a table on a dataset, for a reader who has the file.

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
            rows.append(base | _verdict_row(base, ours, "table4", identified=True))
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
            rows.append(base | _verdict_row(base, ours, "table5_6", identified=len(left_out) < 2))
    return rows


def _with_range(table: pd.DataFrame) -> pd.DataFrame:
    """Compare a table with print, and add the lowest and the highest reward over seeds."""
    dataset = str(table["dataset"].iloc[0])
    ours = table[
        (table["labelling"] == "code") & (table["construction"] == table["method"].map(printed_from))
    ]
    ends = ours.groupby(["scenario", "method"])["reward"].agg(lowest="min", highest="max")
    return compare_with_reported(table, dataset).join(ends)


def _verdict_row(
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
    """Rank the nine methods on MovieLens 1M under each labelling, construction and scenario.

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
