"""Every printed number has a verdict, and the numbers of prose are those of results/."""

import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from cfmtl_lib.errors import ResultsError, UnknownNameError
from cfmtl_lib.experiments.book import published_numbers
from cfmtl_lib.experiments.methods import METHODS
from cfmtl_lib.experiments.paper import comparison
from cfmtl_lib.experiments.paper.comparison import NO_DATA, TOLERANCE
from cfmtl_lib.experiments.paper.reported import reported_table4, reported_table5_6
from cfmtl_lib.runtime.provenance import save_results

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
RECORD = {"command": "none", "seeds": [0]}


@pytest.fixture(scope="module")
def published():
    return comparison.verdicts(RESULTS)


def rewards_like_print(off, dataset="yelp"):
    """Two seeds of a table 4 whose means are ``off`` percent from print."""
    printed = reported_table4().query("dataset == @dataset")
    rows = [
        {
            "dataset": dataset,
            "labelling": "code",
            "construction": "document" if row.method == "CF-MTL-v1" else "authors",
            "scenario": row.scenario,
            "method": row.method,
            "seed": seed,
            "reward": row.reward * (1 + off / 100) + (-1) ** seed,
        }
        for row in printed.itertuples()
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_every_printed_reward_occurs_once(published):
    assert len(reported_table4()) == 54 and len(reported_table5_6()) == 16
    keys = ["table", "dataset", "scenario", "row"]
    assert len(published) == 54 + 16 and not published.duplicated(keys).any()
    assert (
        published["printed"].sum() == reported_table4()["reward"].sum() + reported_table5_6()["reward"].sum()
    )
    assert set(published.loc[published["verdict"] == NO_DATA, "dataset"]) == {"yelp", "kuairec"}


def test_ours_are_the_means_of_the_published_rows(published):
    table = pd.read_csv(RESULTS / "ml-1m" / "table4.csv")
    for row in published.query("table == '4' and dataset == 'ml-1m'").itertuples():
        ours = table.query(
            "labelling == 'code' and construction == @row.construction and scenario == @row.scenario"
            " and method == @row.row"
        )["reward"].to_numpy()
        assert len(ours) == row.seeds == 10
        np.testing.assert_allclose(
            [row.mean, row.sd, row.lowest, row.highest],
            [ours.mean(), ours.std(ddof=1), ours.min(), ours.max()],
        )
        assert row.percent == pytest.approx(100 * (ours.mean() - row.printed) / row.printed)
        assert (abs(row.percent) <= TOLERANCE) == (row.verdict == "reproduced")


def test_where_both_terms_are_missing_the_range_decides(published):
    blind = published[published["row"].str.contains("L_001 and L_000") & (published["dataset"] == "ml-1m")]
    assert len(blind) == 2
    for row in blind.itertuples():
        inside = row.lowest <= row.printed <= row.highest
        assert (
            row.verdict
            == f"not identified; the printed value lies {'within' if inside else 'outside'} our seeds"
        )


@pytest.mark.parametrize(
    ("off", "said"),
    [(2.9, "reproduced"), (-2.9, "reproduced"), (3.2, "not reproduced"), (-3.2, "not reproduced")],
)
def test_new_results_are_judged_at_once(tmp_path, off, said):
    save_results({"table4": rewards_like_print(off)}, tmp_path / "yelp", RECORD)
    found = comparison.verdicts(tmp_path).query("dataset == 'yelp' and table == '4'")
    assert set(found["verdict"]) == {said} and set(found["file"]) == {"yelp/table4.csv"}
    np.testing.assert_allclose(found["percent"], off, atol=1e-6)


def test_commands_name_the_dataset_and_a_known_table(published):
    for row in published.itertuples():
        notebook = "07_table4" if row.table == "4" else "08_tables5_6"
        assert f"notebooks/{notebook}.md" in row.command and f"-p dataset {row.dataset} " in row.command
        assert (ROOT / "notebooks" / f"{notebook}.md").is_file()
    with pytest.raises(UnknownNameError, match="table"):
        comparison.command_for("table9", "yelp")


def test_edited_results_are_refused(tmp_path):
    save_results({"table4": rewards_like_print(0)}, tmp_path / "yelp", RECORD)
    path = tmp_path / "yelp" / "table4.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("coupon", "cash", 1), encoding="utf-8")
    with pytest.raises(ResultsError, match="SHA-256"):
        comparison.verdicts(tmp_path)


def test_facts_follow_their_files(tmp_path):
    """A change of a file changes the numbers that prose takes from it, and no others."""
    root = tmp_path / "results"
    shutil.copytree(RESULTS, root)
    before = published_numbers.facts(root)
    assert before == published_numbers.facts(RESULTS)
    table = pd.read_csv(root / "ml-1m" / "table4.csv")
    record = json.loads((root / "ml-1m" / "table4.json").read_text(encoding="utf-8"))
    table.loc[table["method"] == "CF-MTL", "reward"] *= 1.07
    for about_the_file in ("table", "sha256", "rows"):
        del record[about_the_file]
    save_results({"table4": table}, root / "ml-1m", record)
    after = published_numbers.facts(root)
    changed = {name for name in before if before[name] != after[name]}
    assert {"table4-reproduced", "table4-largest-percent", "v1-lead-from-data"} <= changed
    assert {before[name].source for name in changed} == {"ml-1m/table4.csv"}
    assert after["table4-reproduced"].text == "16"


def test_learners_of_the_first_page_are_those_of_the_file():
    rows = pd.read_csv(RESULTS / "ml-1m" / "baselines.csv")
    facts = {name: fact.text for name, fact in published_numbers.facts(RESULTS).items()}
    for rule in ("code", "text"):
        for scenario in ("coupon", "cash"):
            chosen = (rows["labelling"] == rule) & (rows["scenario"] == scenario)
            one = rows[chosen & (rows["construction"] == "authors")].pivot(
                index="seed", columns="method", values="reward"
            )
            given_x = one.drop(columns=[name for name in one if "given response" in name])
            best = given_x.mean().idxmax()
            assert facts[f"learner-best-{rule}-{scenario}-name"] == best
            mean, error = one[best].mean(), one[best].std() / np.sqrt(len(one))
            assert facts[f"learner-best-{rule}-{scenario}"] == f"{mean:,.0f} ± {error:,.0f}"
            assert facts["learner-seeds"] == f"{len(one)}" and len(one) >= 5
            assert facts["learners"] == f"{given_x.shape[1]}"


def test_facts_are_what_the_files_say():
    """Recomputed here from the files, each in its own way."""
    facts = {name: fact.text for name, fact in published_numbers.facts(RESULTS).items()}
    values = pd.read_csv(RESULTS / "ml-1m" / "policy_values.csv")
    nine = values[~values["method"].str.endswith("-net")]
    known = nine[nine["nuisances"] == "known"]
    near = ((known["estimate"] - known["true_reward"]).abs() <= 3 * known["standard_error"]).sum()
    assert facts["values-known-within"] == f"{near} of {len(known)}"
    coverage = pd.read_csv(RESULTS / "monte_carlo" / "coverage.csv")["coverage"]
    assert facts["coverage"] == f"{100 * coverage.min():.1f} % to {100 * coverage.max():.1f} %"
    table = pd.read_csv(RESULTS / "ml-1m" / "table4.csv")
    wide = table.pivot_table(
        index=["labelling", "construction", "scenario", "seed"], columns="method", values="reward"
    )
    lead = (wide["CF-OR"] - wide["CF-MTL"]).loc["text", "document", "cash"]
    assert facts["text-cf-or-lead-cash-document"] == f"+{lead.mean():,.0f} ± {lead.sem():,.0f}"
    gain = (wide["CF-IPS"] - wide["IPS"]).loc["code"].groupby(["construction", "scenario"]).mean()
    had = (wide["IPS-net"] - wide["IPS"]).loc["code"].groupby(["construction", "scenario"]).mean()
    shares = (had / gain).xs("coupon", level="scenario")
    low, high = (float(end.replace("−", "-").rstrip(" %")) for end in facts["net-share-coupon"].split(" to "))
    assert low - 0.5 <= 100 * shares.min() and 100 * shares.max() <= high + 0.5
    numbers = [text for name, text in facts.items() if not name.endswith("-name")]
    assert all("-" not in text for text in numbers), "a minus sign is no hyphen"


def test_ranking_says_who_is_first():
    shown = comparison.ranking(RESULTS)
    table = pd.read_csv(RESULTS / "ml-1m" / "table4.csv")
    means = (
        table[table["method"].isin(METHODS)]
        .groupby(["labelling", "construction", "scenario", "method"])["reward"]
        .mean()
    )
    for setting in [("code", "authors", "coupon"), ("text", "document", "cash")]:
        assert f"{means.loc[setting].idxmax()} ({' '.join(setting)})" in shown.alt
    before = dict(plt.rcParams)
    assert shown.svg == comparison.ranking(RESULTS).svg
    assert dict(plt.rcParams) == before, "a library function leaves the reader's settings alone"
