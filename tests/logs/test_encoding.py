"""Logs from tables: what becomes of each column, what is refused, and who belongs together."""

import importlib
import json

import numpy as np
import pandas as pd
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, LogError
from cfmtl_lib.logs.columns import Column
from cfmtl_lib.logs.encoding import FrameEncoder

crossfit_module = importlib.import_module(
    "cfmtl_lib.nuisances.cross_fitting"
)  # the package has a function so named

ROLES = {"treatment": "sent", "collected": "used", "converted": "bought"}


def campaign(n=60, seed=0):
    rng = np.random.default_rng(seed)
    sent = rng.integers(0, 2, n)
    return pd.DataFrame(
        {
            "sent": sent,
            "used": sent * rng.integers(0, 2, n),
            "bought": rng.integers(0, 2, n).astype(bool),
            "age": rng.normal(40, 9, n).round(),
            "city": rng.choice(["Oslo", "Bergen", "Tromsø"], n),
            "member": rng.integers(0, 2, n).astype(bool),
            "household": rng.integers(0, n // 3, n),
            "chance": rng.uniform(0.2, 0.8, n),
        }
    )


CAMPAIGN_FEATURES = ["age", "city", "member"]


def take(frame, **options):
    return cf.IncentiveLog.from_frame(frame, **(ROLES | {"features": CAMPAIGN_FEATURES} | options))


def test_columns_land_where_they_belong():
    frame = campaign()
    log = take(frame, propensity="chance", cluster="household")
    assert log.t.tolist() == frame["sent"].tolist() and log.c.tolist() == frame["used"].tolist()
    assert log.y.tolist() == frame["bought"].astype(int).tolist()
    np.testing.assert_array_equal(log.x[:, 0], frame["age"])
    assert [log.encoder.columns[1].categories[int(code) - 1] for code in log.x[:, 1]] == frame[
        "city"
    ].tolist()
    np.testing.assert_array_equal(log.x[:, 2], frame["member"].astype(float))
    np.testing.assert_array_equal(log.propensity, frame["chance"])
    np.testing.assert_array_equal(log.cluster, frame["household"])
    assert not log.is_pairs and log.encoder.names == tuple(CAMPAIGN_FEATURES)
    assert log.encoder.is_category.tolist() == [False, True, False]


@pytest.mark.parametrize("kind", ["category", "object", "string"])
def test_texts_are_categories_whatever_their_dtype(kind):
    frame = campaign()
    log = take(frame.astype({"city": kind}))
    np.testing.assert_array_equal(log.x, take(frame).x)


def test_missing_values_stay_missing():
    frame = campaign()
    frame.loc[3, "age"] = np.nan
    frame.loc[4, "city"] = None
    log = take(frame)
    assert np.isnan(log.x[3, 0]) and log.x[4, 1] == 0
    assert np.isnan(log.x).sum() == 1
    assert np.isfinite(cf.crossfit(log, folds=3).converted_treated).all()


def test_arrays_and_nullable_columns_do_too():
    frame = campaign()
    nullable = frame.convert_dtypes()
    log = take(nullable, propensity=frame["chance"].to_numpy(), cluster=frame["household"].to_numpy())
    np.testing.assert_array_equal(log.x, take(frame).x)
    np.testing.assert_array_equal(log.cluster, frame["household"])


def change(column, row, value):
    frame = campaign().astype({column: object})
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (change("sent", 5, 2), {}, r"column 'sent': expected 0 or 1, found 2 \(first at row 5\)"),
        (change("bought", 7, None), {}, r"column 'bought': expected 0 or 1, found a missing value .*row 7"),
        (
            change("used", 2, "yes"),
            {},
            r"column 'used': expected 0 or 1, found 'yes' \(first at row 2\)\. Recode it",
        ),
        (campaign().assign(used=1), {}, r"column 'used': expected 0 wherever 'sent' is 0, found 1"),
        (campaign().drop(columns="city"), {}, r"column 'city': expected a column .* It has 'sent', 'used'"),
        (campaign(), {"features": ["age", "age"]}, r"each column once, found 'age' twice"),
        (campaign(), {"features": []}, r"at least one column"),
        (campaign(), {"features": ["age", "used"]}, r"known before the assignment, found 'used'"),
        (change("age", 1, np.inf), {}, r"column 'age': expected finite numbers"),
        (campaign().assign(age=np.nan), {}, r"column 'age': expected some value, found missing values only"),
        (
            campaign().assign(age=pd.Timestamp("2026-01-01")),
            {},
            r"column 'age': expected numbers, booleans, or texts .* Turn dates into numbers",
        ),
        (campaign().assign(chance=1.0), {"propensity": "chance"}, r"propensity: .*strictly between 0 and 1"),
        (
            change("household", 9, None),
            {"cluster": "household"},
            r"cluster: expected a label .*row 9",
        ),
        (campaign(), {"cluster": [1, 2]}, r"cluster: expected shape \(60,\)"),
        ([1, 2], {}, r"frame: expected a table .*, found"),
    ],
)
def test_what_is_wrong_is_named(frame, options, message):
    with pytest.raises(LogError, match=message):
        take(frame, **options)


def test_two_columns_of_one_name_are_refused():
    frame = campaign()
    with pytest.raises(LogError, match="one column of this name, found 2"):
        take(pd.concat([frame, frame[["age"]]], axis=1))


def test_later_rows_are_encoded_alike():
    frame = campaign()
    encoder = take(frame).encoder
    np.testing.assert_array_equal(encoder.encode(frame[::-1]), take(frame).x[::-1])
    np.testing.assert_array_equal(encoder.encode(frame[["member", "city", "age"]]), take(frame).x)
    with pytest.raises(LogError, match=r"column 'city': expected one of the 3 categories .* found 'Rome'"):
        encoder.encode(frame.assign(city="Rome"))
    with pytest.raises(LogError, match="at least one row"):
        encoder.encode(frame[:0])


def test_encoder_survives_json():
    encoder = take(campaign()).encoder
    assert FrameEncoder.from_dict(json.loads(json.dumps(encoder.to_dict()))) == encoder


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[1.0]], r"shape \(n, 2\)"),
        ([[1.0, 3.0]], r"column 'city': expected codes 0 \(missing\) to 2, found .*3.0"),
        ([[1.0, 0.5]], r"column 'city'"),
        ([[np.inf, 1.0]], r"column 'age': expected finite numbers, or NaN"),
    ],
)
def test_features_that_the_encoder_cannot_have_made_are_refused(x, message):
    encoder = FrameEncoder((Column("age", "number"), Column("city", "category", ("Bergen", "Oslo"))))
    with pytest.raises(LogError, match=message):
        cf.IncentiveLog(x, t=[1], c=[0], y=[0], encoder=encoder)


def test_rows_of_a_cluster_stay_in_one_fold():
    log = take(campaign(200), cluster="household")
    fold = crossfit_module.fold_of_rows(log, 4, seed=0)
    assert all(len(set(fold[log.cluster == name])) == 1 for name in np.unique(log.cluster))
    assert set(fold) == {0, 1, 2, 3}
    few = take(campaign(60), cluster=np.arange(60) % 3)
    with pytest.raises(InputError, match="at most 3, the number of clusters"):
        cf.crossfit(few, folds=5)


def test_values_go_by_the_clusters_of_the_log():
    frame = campaign(200)
    plain, grouped = take(frame, propensity="chance"), take(frame, propensity="chance", cluster="household")
    nuisances = cf.crossfit(plain, folds=2)
    everybody = np.ones(len(plain), dtype=bool)
    for function in (
        lambda log, **o: cf.policy_value(everybody, log, nuisances, cost=0.4, **o).standard_error,
        lambda log, **o: (
            cf.policy_value_difference(everybody, ~everybody, log, nuisances, cost=0.4, **o).standard_error
        ),
        lambda log, **o: cf.strata_shares(log, nuisances, **o)["standard_error"].iloc[3],
    ):
        given = function(plain, clusters=frame["household"])
        assert function(grouped) == given != function(plain)
