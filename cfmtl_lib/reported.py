"""The numbers that the reproduction report prints, and ours beside them."""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

V1 = "CF-MTL-v1"


def printed_from(method: str) -> str:
    """Construction on whose data the printed row of a method was measured.

    The report prints the row of its own change, CF-MTL-v1, on other data than the other eight rows.

    Examples
    --------
    >>> printed_from("CF-MTL"), printed_from("CF-MTL-v1")
    ('authors', 'document')
    """
    return "document" if method == V1 else "authors"


def reported_table4() -> pd.DataFrame:
    """Table 4 as printed, long form.

    Returns
    -------
    DataFrame
        54 rows: scenario, dataset, method, positive, negative, neutral, reward.
    """
    with (files("cfmtl_lib") / "reported" / "table4.csv").open(encoding="utf-8") as stream:
        return pd.read_csv(stream)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Reward over seeds.

    Parameters
    ----------
    table : DataFrame
        From :func:`~cfmtl_lib.tables.table4`.

    Returns
    -------
    DataFrame
        Index (labelling, construction, scenario, method), in the order of the table; columns mean, sd
        (over seeds; NaN for one seed), seeds.
    """
    keys = ["labelling", "construction", "scenario", "method"]
    statistics = table.groupby(keys, sort=False)["reward"].agg(["mean", "std", "count"])
    return statistics.rename(columns={"std": "sd", "count": "seeds"})


def compare_with_reported(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Mean reward beside the printed one, each method on the construction it was printed from.

    Parameters
    ----------
    table : DataFrame
        From :func:`~cfmtl_lib.tables.table4`. Only its rows of labelling "code" are compared: the
        printed table follows that rule.
    dataset : str
        "ml-1m", "yelp" or "kuairec".

    Returns
    -------
    DataFrame
        Index (scenario, method), in the order of print; columns reported, mean, sd, seeds, difference,
        percent (of the reported value). Empty where there is nothing to compare.
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


def side_by_side(comparison: pd.DataFrame, reference: str) -> pd.DataFrame:
    """A comparison as readers see it: reference, mean and sd over seeds, difference.

    Parameters
    ----------
    comparison : DataFrame
        Index (scenario, method); columns mean, sd and the one that ``reference`` names.
    reference : str
        E.g. "reported".

    Returns
    -------
    DataFrame of str
        Index method; columns (scenario, what).

    Examples
    --------
    >>> index = pd.MultiIndex.from_tuples([("coupon", "OR")], names=["scenario", "method"])
    >>> one = pd.DataFrame({"reported": [1000.0], "mean": [1010.4], "sd": [5.2]}, index=index)
    >>> side_by_side(one, "reported").loc["OR"].tolist()
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
