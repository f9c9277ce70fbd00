"""Arguments with a value for each row: what is accepted, in which order, and what is refused."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib.logs.row_arguments import labels_by_row, numbers_by_row, same_rows, table_of_numbers


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["1", "2"], r"'1' \(first at row 0\)"),
        ([1 + 0j, 2], r"\(1\+0j\)"),
        ([True, False], "True and False"),
        ([object(), 1], "object"),
        (np.array(["2024-01-01"] * 2, dtype="M8[D]"), "datetime.date"),
        (np.ma.array([1.0, 2.0], mask=[False, True]), r"a masked one \(first at row 1\)"),
        ([[1.0], [1.0, 2.0]], "list that is none"),
        ([[1.0, 2.0]], r"shape \(1, 2\)"),
        ([1.0], r"shape \(1,\)"),
        ([1.0, np.inf], r"inf \(first at row 1\)"),
        ([1.0, None], r"nan \(first at row 1\)"),
        (np.array([1, 1 << 4000], dtype=object), r"13182.*\.\.\. \(first at row 1\)"),
        ("ab", "one str"),
        (None, "one NoneType"),
        ({0: 1.0, 1: 2.0}, "one dict"),
        (pd.Series([1.0, 2.0], index=[1, 0]), "label 1"),
    ],
)
def test_rows_that_are_no_numbers_are_refused(values, found):
    with pytest.raises(cf.InputError, match=f"^score: expected .*found .*{found}"):
        numbers_by_row("score", values, 2)


@pytest.mark.parametrize(
    "values",
    [
        [1, 2],
        np.array([1, 2], dtype=np.uint8),
        pd.Series([1.0, 2.0]),
        pd.Series([1, 2], dtype="Int64"),
        np.array([Decimal(1), Fraction(2)], dtype=object),
        np.ma.array([1.0, 2.0], mask=[False, False]),
        (1.0, 2.0),
    ],
)
def test_rows_of_numbers_become_float64(values):
    found = numbers_by_row("score", values, 2)
    assert found.dtype == np.float64 and found.tolist() == [1.0, 2.0]


def test_a_series_alone_is_taken_as_it_is_and_beside_another_by_label():
    rewards, spends = pd.Series([3.0, 1.0], index=["b", "a"]), pd.Series([10.0, 20.0], index=["a", "b"])
    assert numbers_by_row("reward", rewards).tolist() == [3.0, 1.0]
    assert same_rows("spend", spends, rewards).tolist() == [20.0, 10.0]
    assert same_rows("spend", [10.0, 20.0], rewards) == [10.0, 20.0]
    with pytest.raises(cf.InputError, match="spend: expected a Series with the labels"):
        same_rows("spend", spends.rename({"a": "c"}), rewards)
    with pytest.raises(cf.InputError, match="spend: expected a Series with the labels"):
        same_rows("spend", spends, rewards.to_numpy())


def test_columns_of_a_table_are_taken_by_name():
    p = pd.DataFrame([[0.1, 0.2, 0.3, 0.15, 0.25]], columns=list(cf.STRATA))
    as_scored = p.iloc[:, ::-1].rename(columns=lambda name: "p_" + name.replace(" ", "_"))
    for table in (p, p.iloc[:, ::-1], as_scored, p.set_axis(range(5), axis=1)):
        assert table_of_numbers("p", table, cf.STRATA).tolist() == p.to_numpy().tolist()
    with pytest.raises(cf.InputError, match=r"columns never buyer.*found columns a, b"):
        table_of_numbers("p", p.set_axis(list("abcde"), axis=1), cf.STRATA)


def test_labels_of_clusters_follow_the_rows_of_the_log():
    labels = pd.Series(["x", "y", "x"], index=[2, 0, 1])
    names, member = labels_by_row("clusters", labels, 3, pd.Index([0, 1, 2]))
    assert names[member].tolist() == ["y", "x", "x"]


def test_clusters_costs_and_policies_follow_the_labels_of_the_log():
    study = cf.simulated_features(400, seed=2)
    labels = pd.Index([f"row {k}" for k in range(400)])
    rng = np.random.default_rng(0)
    log = cf.IncentiveLog(
        pd.DataFrame(study.log.x, index=labels, columns=list("abcde")), study.log.t, study.log.c, study.log.y
    )
    given = {
        "treat": pd.Series(rng.random(400) < 0.5, index=labels),
        "cost": pd.Series(rng.uniform(0.1, 0.6, 400), index=labels),
        "clusters": pd.Series(rng.integers(0, 50, 400), index=labels),
    }
    expected = cf.policy_value(
        log=study.log, nuisances=study.true_nuisances, **{k: v.to_numpy() for k, v in given.items()}
    )
    shuffled = {name: column.sample(frac=1, random_state=k) for k, (name, column) in enumerate(given.items())}
    found = cf.policy_value(log=log, nuisances=study.true_nuisances, **shuffled)
    assert (found.value, found.standard_error) == (expected.value, expected.standard_error)
    assert found.n_clusters == 50 and found.spend.value == expected.spend.value


def test_costs_of_a_prediction_follow_the_labels_of_its_table():
    study = cf.simulated_campaign(300, seed=2)
    learner = LogisticRegression(max_iter=500)
    rows = study.table.iloc[50:60]
    cost = pd.Series(np.linspace(0.1, 0.5, 10), index=rows.index)
    for kind in (cf.CFOR, cf.OR, cf.ORNet, cf.Naive):
        model = kind(outcome=learner).fit(study.log())
        expected = model.predict_reward(rows, "coupon", cost.to_numpy())
        assert model.predict_reward(rows, "coupon", cost[::-1]).tolist() == expected.tolist()
        with pytest.raises(cf.InputError, match=r"cost: .*labels"):
            model.predict_reward(rows, "coupon", cost.reset_index(drop=True))
