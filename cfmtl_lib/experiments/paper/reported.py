"""Numbers that the reproduction report prints, and ours beside them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

import pandas as pd

V1 = "CF-MTL-v1"


def printed_from(method: str) -> str:
    """Name the construction on whose data the printed row of a method was measured.

    "authors" builds the semi-synthetic data with the losses of the authors' code, "document" with those of
    the reproduction report.

    The report prints the row of its own change, CF-MTL-v1, on other data than the other eight rows.

    Examples
    --------
    >>> printed_from("CF-MTL"), printed_from("CF-MTL-v1")
    ('authors', 'document')
    """
    return "document" if method == V1 else "authors"


_TABLES = files("cfmtl_lib.experiments.paper") / "reported_tables"


def reported_table4() -> pd.DataFrame:
    """Return Table 4 as printed, in long form.

    Returns
    -------
    DataFrame
        54 rows; columns ``scenario, dataset, method, positive, negative, neutral, reward``.
    """
    with (_TABLES / "table4.csv").open(encoding="utf-8") as stream:
        return pd.read_csv(stream)


def reported_table5_6() -> pd.DataFrame:
    """Return Tables 5 and 6 as printed, in long form.

    Returns
    -------
    DataFrame
        16 rows; columns ``dataset, scenario, keeps_001, keeps_000, reward``. All are of CF-MTL-v1, which the
        report calls CF-MTL there.
    """
    with (_TABLES / "table5_6.csv").open(encoding="utf-8") as stream:
        wide = pd.read_csv(stream).rename(
            columns={"loss_terms_kept_L001": "keeps_001", "loss_terms_kept_L000": "keeps_000"}
        )
    parts = [
        wide[["dataset", "keeps_001", "keeps_000"]].assign(
            scenario=scenario, reward=wide[f"reward_{scenario}"]
        )
        for scenario in ("coupon", "cash")
    ]
    return pd.concat(parts, ignore_index=True)


def compare_ablations(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Compare the mean reward of CF-MTL-v1 without loss terms with the printed one.

    Parameters
    ----------
    table : DataFrame
        Table that :func:`~cfmtl_lib.experiments.paper.tables.table5_6` returns. Rows of labelling "code" and
        construction "document" are compared, because the printed rows come from there.
    dataset : str
        "ml-1m" (Table 6) or "yelp" (Table 5).

    Returns
    -------
    DataFrame
        Index (scenario, keeps_001, keeps_000), in the order of print. Columns ``reported``, ``mean``,
        ``sd``, ``seeds``, ``lowest``, ``highest`` (over seeds), ``difference``, ``percent`` (of the reported
        value). Empty where nothing is printed.
    """
    keys = ["scenario", "keeps_001", "keeps_000"]
    ours = table.query("labelling == 'code' and construction == 'document' and method == @V1")
    summary = ours.groupby(keys, sort=False)["reward"].agg(["mean", "std", "count", "min", "max"])
    summary = summary.rename(columns={"std": "sd", "count": "seeds", "min": "lowest", "max": "highest"})
    printed = reported_table5_6().query("dataset == @dataset").set_index(keys)["reward"]
    both = printed.rename("reported").to_frame().join(summary, how="inner")
    both["difference"] = both["mean"] - both["reported"]
    both["percent"] = 100 * both["difference"] / both["reported"].abs()
    return both


def paired_differences(table: pd.DataFrame, baselines: Mapping[str, str]) -> pd.DataFrame:
    """Estimate differences of rewards between two methods on the same studies, over seeds.

    Two methods of one seed share data and chance, so the standard error of their difference is smaller than
    their two standard deviations suggest.

    Parameters
    ----------
    table : DataFrame
        Table that :func:`~cfmtl_lib.experiments.paper.tables.table4` returns.
    baselines : mapping of str to str
        Baseline to compare each method with, by method.

    Returns
    -------
    DataFrame
        Index (labelling, construction, scenario, method). Columns ``baseline``, ``difference`` (mean over
        seeds), ``se`` (standard error of that mean; NaN for one seed), ``seeds``, ``wins`` (number of seeds
        in which the method earns more).
    """
    study = ["labelling", "construction", "scenario"]
    wide = table.pivot(index=[*study, "seed"], columns="method", values="reward")
    parts = {}
    for method, baseline in baselines.items():
        difference = wide[method] - wide[baseline]
        by_study = difference.groupby(level=study, sort=False)
        parts[method] = pd.DataFrame(
            {
                "baseline": baseline,
                "difference": by_study.mean(),
                "se": by_study.sem(),
                "seeds": by_study.count(),
                "wins": (difference > 0).groupby(level=study, sort=False).sum(),
            }
        )
    return pd.concat(parts, names=["method"]).reorder_levels([*study, "method"])


def lead_of_v1(table: pd.DataFrame) -> pd.DataFrame:
    """Split the printed lead of CF-MTL-v1 over CF-MTL into the parts of the data and of the method.

    The printed lead is v1 on construction "document" less CF-MTL on construction "authors". The split goes
    through either CF-MTL on "document" (data first) or v1 on "authors" (method first). Both are given.

    Parameters
    ----------
    table : DataFrame
        Table that :func:`~cfmtl_lib.experiments.paper.tables.table4` returns, with both constructions.

    Returns
    -------
    DataFrame
        Index (labelling, scenario, part). Parts are "lead", "data (CF-MTL on both)", "method (on document)",
        "data (v1 on both)", "method (on authors)". Columns ``mean``, ``se`` (standard error over seeds),
        ``seeds``.
    """
    rows = table[table["method"].isin([V1, "CF-MTL"])]
    wide = rows.pivot(
        index=["labelling", "scenario", "seed"], columns=["method", "construction"], values="reward"
    )
    v1, joint = wide[V1], wide["CF-MTL"]
    parts = pd.concat(
        {
            "lead": v1["document"] - joint["authors"],
            "data (CF-MTL on both)": joint["document"] - joint["authors"],
            "method (on document)": v1["document"] - joint["document"],
            "data (v1 on both)": v1["document"] - v1["authors"],
            "method (on authors)": v1["authors"] - joint["authors"],
        },
        names=["part"],
    )
    summary = parts.groupby(level=["labelling", "scenario", "part"], sort=False).agg(["mean", "sem", "count"])
    return summary.rename(columns={"sem": "se", "count": "seeds"})


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Summarise rewards over seeds.

    Parameters
    ----------
    table : DataFrame
        Table that :func:`~cfmtl_lib.experiments.paper.tables.table4` returns.

    Returns
    -------
    DataFrame
        Index (labelling, construction, scenario, method), in the order of the table. Columns ``mean``, ``sd``
        (over seeds; NaN for one seed), ``seeds``.
    """
    keys = ["labelling", "construction", "scenario", "method"]
    statistics = table.groupby(keys, sort=False)["reward"].agg(["mean", "std", "count"])
    return statistics.rename(columns={"std": "sd", "count": "seeds"})


def compare_with_reported(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Compare each mean reward with the printed one, on the construction that it was printed from.

    Parameters
    ----------
    table : DataFrame
        Table that :func:`~cfmtl_lib.experiments.paper.tables.table4` returns. Only its rows of labelling
        "code" are compared, because the printed table follows the labelling rule of the authors' code.
    dataset : str
        "ml-1m", "yelp" or "kuairec".

    Returns
    -------
    DataFrame
        Index (scenario, method), in the order of print. Columns ``reported``, ``mean``, ``sd``, ``seeds``,
        ``difference``, ``percent`` (of the reported value). Empty where there is nothing to compare.
    """
    ours = table[
        (table["labelling"] == "code") & (table["construction"] == table["method"].map(printed_from))
    ]
    summary = summarise(ours).droplevel(["labelling", "construction"])
    printed = reported_table4().query("dataset == @dataset").set_index(["scenario", "method"])["reward"]
    both = printed.rename("reported").to_frame().join(summary, how="inner")
    both["difference"] = both["mean"] - both["reported"]
    both["percent"] = 100 * both["difference"] / both["reported"].abs()
    return both


def comparison_table(comparison: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Format a comparison for readers: reference, mean and sd over seeds, difference.

    Parameters
    ----------
    comparison : DataFrame
        Index (scenario, method); columns ``mean``, ``sd`` and the one that ``reference`` names.
    reference : str
        Name of the reference column, e.g. "reported".

    Returns
    -------
    DataFrame of str
        Index method; columns (scenario, quantity).

    Examples
    --------
    >>> index = pd.MultiIndex.from_tuples([("coupon", "OR")], names=["scenario", "method"])
    >>> one = pd.DataFrame({"reported": [1000.0], "mean": [1010.4], "sd": [5.2]}, index=index)
    >>> comparison_table(one, "reported").loc["OR"].tolist()
    ['1,000', '1,010 ± 5', '+10 (+1.0 %)']
    """
    difference = comparison["mean"] - comparison[reference]
    percent = 100 * difference / comparison[reference].abs()
    spread = comparison["sd"].map(lambda sd: "" if pd.isna(sd) else f" ± {sd:,.0f}")
    text = pd.DataFrame(
        {
            reference: comparison[reference].map("{:,.0f}".format),
            "ours": comparison["mean"].map("{:,.0f}".format) + spread,
            "difference": [f"{d:+,.0f} ({p:+.1f} %)" for d, p in zip(difference, percent, strict=True)],
        }
    )
    scenarios = list(dict.fromkeys(comparison.index.get_level_values("scenario")))
    return pd.concat({scenario: text.loc[scenario] for scenario in scenarios}, axis=1)
