"""The randomised cash incentive: its loader, its simulation, and the tables that chapter 12 shows."""

import importlib.util

import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.datasets import load_thornton, simulated_cash_trial, tidy_cash_trial
from cfmtl_lib.datasets.case_studies.thornton import DOLLARS_A_KWACHA, RAW_COLUMNS, thornton_file
from cfmtl_lib.errors import InputError, LogError, StudyError
from cfmtl_lib.experiments.cases import cash_targeting, cash_trial
from cfmtl_lib.strata import COUPON_TAKER, NEVER_TAKER, STRATA
from cfmtl_lib.value import arm_means, arm_scores, complementary_thinning, crossfit, strata_shares
from cfmtl_lib.value.estimates import mean_estimate

INSTALLED = importlib.util.find_spec("causaldata") is not None


def tiny():
    nan = np.nan
    return pd.DataFrame(
        {
            "villnum": [1.0, 88.0, 100.0, nan],
            "got": [1.0, 0.0, nan, 1.0],
            "distvct": [0.5, 1.0, 2.0, 3.0],
            "tinc": [300 * DOLLARS_A_KWACHA, 0.0, nan, 10 * DOLLARS_A_KWACHA],
            "any": [1.0, 0.0, nan, 1.0],
            "age": [20.0, nan, 40.0, 50.0],
            "hiv2004": [0.0, 1.0, nan, -1.0],
        }
    )


@pytest.fixture(scope="module")
def trial():
    return simulated_cash_trial(60, seed=3)


@pytest.fixture(scope="module")
def sample(trial):
    table = tidy_cash_trial(trial.raw)
    return table[cash_trial.analysed(table)].reset_index(drop=True)


def test_loader_gives_plain_names_and_keeps_what_is_missing(tmp_path):
    path = tmp_path / "thornton_hiv.dta"
    tiny().to_stata(path, write_index=False)
    table = load_thornton(tmp_path)
    nan = np.nan
    expected = {
        "village": [1, 88, 100, nan],
        "area": [0, 0, 1, nan],
        "offered": [1, 0, nan, 1],
        "amount": [300, 0, nan, 10],
        "learnt": [1, 0, nan, 1],
        "distance": [0.5, 1, 2, 3],
        "age": [20, nan, 40, 50],
        "hiv": [0, 1, nan, -1],
        "hiv_positive": [0, 1, nan, 0],
    }
    pd.testing.assert_frame_equal(table, pd.DataFrame(expected, dtype=np.float64))
    assert cash_trial.analysed(table).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("got", 1, 2.0, r"column 'got': expected one of \(0, 1\), or missing, found 2 \(first at row 1\)"),
        ("hiv2004", 0, 3.0, "column 'hiv2004': expected one of"),
        ("tinc", 0, 0.5, "column 'tinc': expected multiples of ten kwacha"),
        ("any", 0, 0.0, "column 'any': expected 1 where tinc is above 0"),
        ("distvct", 3, -1.0, "column 'distvct': expected numbers >= 0"),
    ],
)
def test_values_that_the_study_cannot_have_are_refused(column, row, value, message):
    raw = tiny()
    raw.loc[row, column] = value
    with pytest.raises(StudyError, match=message):
        tidy_cash_trial(raw)


@pytest.mark.parametrize("column", RAW_COLUMNS)
def test_a_column_that_is_not_there_is_named(column):
    with pytest.raises(LogError, match=f"column '{column}': expected a column of the table"):
        tidy_cash_trial(tiny().drop(columns=column))


def test_missing_package_and_missing_file_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(StudyError, match=r"found no such file\. Give the folder"):
        load_thornton(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StudyError, match=r"found no such package\. Install it: pip install causaldata"):
        load_thornton()


@pytest.mark.skipif(not INSTALLED, reason="needs the package causaldata (extra cases)")
def test_the_study_is_the_one_that_was_published():
    table = load_thornton()
    assert thornton_file().name == "thornton_hiv.dta"
    assert len(table) == 4820
    assert int(table["offered"].notna().sum()) == 2901
    assert int(table["learnt"].notna().sum()) == 2894
    assert int(table[["offered", "learnt"]].notna().all(axis=1).sum()) == 2834
    assert int(cash_trial.analysed(table).sum()) == 2830
    assert table["amount"].max() == 300
    # All without a recorded draw whose result is known learnt it: no random part of the trial.
    assert (table.loc[table["offered"].isna() & table["learnt"].notna(), "learnt"] == 1).all()


@pytest.mark.skipif(not INSTALLED, reason="needs the package causaldata (extra cases)")
def test_the_published_tables_are_those_of_the_study():
    from cfmtl_lib.runtime.provenance import checkout, load_results

    table = load_thornton()
    sample = table[cash_trial.analysed(table)].reset_index(drop=True)
    published, record = load_results(checkout() / "results" / "thornton", "shares")
    assert record["commit_is_clean"] is True
    now = cash_trial.direct_shares(sample, sample["area"])
    then = published[published["source"] == "arms compared within areas"].set_index("stratum")
    np.testing.assert_allclose(now["value"], then["value"], atol=1e-12)
    np.testing.assert_allclose(now["standard_error"], then["standard_error"], atol=1e-12)


def test_simulation_has_the_columns_of_the_study_and_three_strata(trial):
    assert tuple(trial.raw.columns) == RAW_COLUMNS
    assert not np.isin(trial.stratum, [NEVER_TAKER, COUPON_TAKER]).any()
    np.testing.assert_allclose(trial.probability.sum(axis=1), 1)
    table = tidy_cash_trial(trial.raw)
    both = table[["offered", "learnt"]].notna().all(axis=1)
    # C = T Y and the strata agree row by row: always buyers learn, never buyers do not, whatever the draw.
    offered, learnt = table.loc[both, "offered"], table.loc[both, "learnt"]
    for name, expected in (("always buyer", 1.0), ("never buyer", 0.0), ("coupon buyer", offered)):
        inside = trial.stratum[both] == STRATA.index(name)
        of_stratum = expected if isinstance(expected, float) else expected[inside]
        assert (learnt[inside] == of_stratum).all(), name


def test_simulated_shares_are_found_within_three_standard_errors(trial, sample):
    truth = np.bincount(trial.stratum[cash_trial.analysed(tidy_cash_trial(trial.raw))], minlength=5)
    truth = truth / truth.sum()
    log = cash_trial.trial_log(sample)
    share = cash_trial.design_propensity(sample)
    fitted = strata_shares(log, crossfit(log, outcome=cash_trial.classifier(), propensity=share))
    for table in (cash_trial.direct_shares(sample, sample["area"]), fitted):
        occurs = truth > 0
        z = (table["value"] - truth)[occurs] / table["standard_error"][occurs]
        assert (z.abs() < 3).all(), z
        np.testing.assert_allclose(table["value"].to_numpy()[~occurs], 0, atol=1e-12)
        assert table["standard_error"].max() < 0.05


def test_one_block_gives_the_difference_of_means(sample):
    direct = cash_trial.direct_shares(sample)["value"]
    means = sample.groupby("offered")["learnt"].mean()
    assert direct["coupon buyer"] == pytest.approx(means[1] - means[0])
    assert direct["always buyer"] == pytest.approx(means[0])
    assert direct["never buyer"] == pytest.approx(1 - means[1])
    within = cash_trial.direct_shares(sample, sample["area"])["value"]
    by_area = sample.groupby(["area", "offered"])["learnt"].mean().unstack()
    gaps = by_area[1.0] - by_area[0.0]
    assert within["coupon buyer"] == pytest.approx(gaps @ sample["area"].value_counts(normalize=True))


def test_standard_error_of_a_difference_is_the_textbook_one():
    rng = np.random.default_rng(0)
    arm, y = np.repeat([0, 1], [300, 100]), rng.normal(size=400)
    found = arm_means(y, arm, reference=0).loc[1]
    expected = np.sqrt(y[:300].var(ddof=1) / 300 + y[300:].var(ddof=1) / 100)
    assert found["value"] == pytest.approx(y[300:].mean() - y[:300].mean())
    assert found["standard_error"] == pytest.approx(expected, rel=0.01)


def test_errors_of_small_blocks_hold():
    """Pairs of two and two: without the widening of residuals the errors would be too small by a third."""
    rng = np.random.default_rng(1)
    block, arm = np.repeat(np.arange(50), 4), np.tile([0, 0, 1, 1], 50)
    found = [arm_means(rng.normal(size=200), arm, block=block, reference=0).iloc[0] for _ in range(400)]
    spread = np.std([f["value"] for f in found])
    assert np.mean([f["standard_error"] for f in found]) == pytest.approx(spread, rel=0.12)


def test_arms_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match=r"block: expected at least two rows of each arm.*found 1 of arm 0"):
        arm_scores([0, 1, 1, 0], [0, 1, 1, 1])
    with pytest.raises(InputError, match=r"reference: expected one of \[0, 1\], found 2"):
        arm_means([0, 1, 1, 0], [0, 0, 1, 1], reference=2)
    with pytest.raises(InputError, match=r"outcome: expected finite numbers.*first at row 1"):
        arm_scores([0, np.nan], [0, 1])


def test_thinning_confounds_and_leaves_the_population():
    rng = np.random.default_rng(2)
    n = 200_000
    x = rng.integers(0, 2, n)
    e = np.where(x == 1, 0.6, 0.8)
    keep_untreated = np.where(x == 1, 0.3, 1.0)
    keep_treated, thinned = complementary_thinning(e, keep_untreated)
    treated = rng.random(n) < e
    kept = rng.random(n) < np.where(treated, keep_treated, keep_untreated)
    assert x[kept].mean() == pytest.approx(x.mean(), abs=0.01)
    for value in (0, 1):
        inside = kept & (x == value)
        assert treated[inside].mean() == pytest.approx(thinned[x == value][0], abs=0.01)
    assert keep_treated.max() == pytest.approx(1)
    with pytest.raises(InputError, match="keep_untreated: expected treated rows enough"):
        complementary_thinning([0.1, 0.1], [1.0, 0.01])
    with pytest.raises(InputError, match="propensity: expected values strictly between 0 and 1"):
        complementary_thinning([1.0, 0.5], [1.0, 1.0])


def test_thinning_misleads_the_arms_and_not_the_library():
    trial = simulated_cash_trial(170, seed=1)
    table = tidy_cash_trial(trial.raw)
    sample = table[cash_trial.analysed(table)].reset_index(drop=True)
    by = cash_trial.thinned_shares(sample, 1).set_index("source")
    assert by.loc["arms compared as they are", "z"] > 3
    assert by.loc["library, distance and area hidden", "error"] > 0.05
    for source in ("library, known propensity", "library, fitted propensity"):
        assert abs(by.loc[source, "z"]) < 3
    limit = cash_trial.thinning_limit(sample)
    assert limit["target"].item() == by["target"].iloc[0]
    assert abs(limit["error"].item()) < 0.01


def test_missing_results_widen_the_range_and_never_exclude_the_estimate(trial, sample):
    table = cash_trial.missing_results(tidy_cash_trial(trial.raw))
    estimate = cash_trial.direct_shares(sample, sample["area"]).loc["coupon buyer", "value"]
    assert (table["lowest"] < estimate).all() and (estimate < table["highest"]).all()
    width = table["highest"] - table["lowest"]
    assert width[1] > width[0]


def test_judged_values_are_the_true_ones_within_three_standard_errors(trial, sample):
    truth = trial.stratum[cash_trial.analysed(tidy_cash_trial(trial.raw))]
    values, differences = cash_targeting.targeting(sample, 1, truth)
    paid = values[values["share_offered"] > 0]
    assert ((paid["value"] - paid["true_value"]).abs() < 3 * paid["standard_error"]).all()
    everyone = values[values["rule"] == "everyone"].set_index("cost_share")
    for share in cash_targeting.COST_SHARES:
        worth = cf.expected_reward(np.eye(5), "cash", share, 1.0)[truth].mean()
        assert everyone.loc[share, "true_value"] == pytest.approx(worth)
    pairs = values.set_index(["cost_share", "rule"])["value"]
    for row in differences.itertuples():
        gap = pairs[row.cost_share, row.rule] - pairs[row.cost_share, row.against]
        assert row.difference == pytest.approx(gap)


def test_rules_do_not_see_the_test_result_and_keep_the_budget(sample):
    assert "hiv_positive" not in cash_targeting.RULE_FEATURES
    assert cash_trial.TRIAL_FEATURES[: len(cash_targeting.RULE_FEATURES)] == cash_targeting.RULE_FEATURES
    values, _ = cash_targeting.targeting(sample, 1)
    budgeted = values[values["rule"].str.endswith("budget")]
    assert (budgeted["share_offered"] <= cash_targeting.BUDGET + 1e-9).all()


def test_doses_add_up(sample):
    tables = cash_targeting.effects_by_amount(sample)
    doses, steps, net = tables["doses"], tables["steps"], tables["net"]
    assert doses["rows"].sum() == len(sample)
    assert steps["more_learnt"].sum() == pytest.approx(doses["coupon_buyers"].iloc[-1])
    assert doses.loc[0, ["coupon_buyers", "payment"]].tolist() == [0, 0]
    for _, part in net.groupby("value_of_result"):
        assert part["last_step"].sum() == pytest.approx(part["net"].iloc[-1])
    within = (sample["amount"] > 100) & (sample["amount"] <= 200)
    assert doses.loc[doses["amount"] == "110-200", "rows"].item() == within.sum()


def test_study_refuses_no_seeds(trial):
    with pytest.raises(InputError, match="seeds: expected a whole number >= 1, found 0"):
        cash_targeting.cash_study(tidy_cash_trial(trial.raw), seeds=0)


def test_clusters_are_villages(sample):
    shares = cash_trial.direct_shares(sample)
    assert cash_trial.trial_log(sample).cluster is not None
    _, scores = arm_scores(sample["learnt"], sample["offered"])
    alone = mean_estimate(scores[:, 1] - scores[:, 0]).standard_error
    together = mean_estimate(scores[:, 1] - scores[:, 0], clusters=sample["village"]).standard_error
    assert shares.loc["coupon buyer", "standard_error"] == pytest.approx(together)
    assert together != pytest.approx(alone)
