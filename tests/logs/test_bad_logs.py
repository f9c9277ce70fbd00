"""A catalogue of logs that cannot be used: each is refused in words that say what to do."""

import datetime
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy.sparse import csr_matrix

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError

N = 6
BEYOND = 2**53 + 1


def table(**changes):
    return pd.DataFrame(
        {
            "sent": [1, 0, 1, 0, 1, 0],
            "used": [1, 0, 0, 0, 1, 0],
            "bought": [1, 0, 1, 1, 0, 0],
            "age": [30.0, 41.0, 50.0, 22.0, 35.0, 60.0],
            "visits": [3, 1, 4, 1, 5, 9],
            "city": ["Oslo", "Bergen", "Oslo", "Bergen", "Oslo", "Bergen"],
            "chance": [0.5] * N,
        }
    ).assign(**changes)


ROLES = {"treatment": "sent", "collected": "used", "converted": "bought"}
FEATURES = ["age", "city"]


def framed(frame=None, **options):
    return cf.IncentiveLog.from_frame(
        table() if frame is None else frame, **({**ROLES, "features": FEATURES} | options)
    )


def made(**changes):
    """Make a log of arrays, some of them changed."""
    frame = table()
    good = {
        "x": frame[["age"]].to_numpy(),
        "t": frame["sent"].to_numpy(),
        "c": frame["used"].to_numpy(),
        "y": frame["bought"].to_numpy(),
    }
    return cf.IncentiveLog(**(good | changes))


def fitted_xy(x, y=None):
    return cf.IncentiveLog.from_xy(x, table()[["sent", "used", "bought"]] if y is None else y)


def encoded(**changes):
    return framed().encoder.encode(table(**changes))


def schema():
    return cf.InputSchema.from_log(framed())


PAIRS = np.array([[0, 0], [1, 1], [2, 0], [0, 1], [1, 0], [2, 1]])
OTHER_ROWS = pd.Series([0] * N, list("abcdef"))
SHUFFLED = [3, 1, 0, 2, 4, 5]

BAD_LOGS: list[tuple[str, Callable[[], object], str]] = [
    # x
    ("x of None", lambda: made(x=None), "x: expected an array, found None"),
    ("x of text", lambda: made(x="age"), "x: expected an array, found 'age'"),
    ("x of a dict", lambda: made(x={"age": [1.0] * N}), "x: expected an array"),
    ("x of ragged lists", lambda: made(x=[[1.0], [1.0, 2.0]]), "x: expected an array"),
    ("x of one dimension", lambda: made(x=np.ones(N)), r"x: expected shape .*found shape \(6,\)"),
    ("x of three dimensions", lambda: made(x=np.ones((N, 1, 1))), "x: expected shape"),
    ("x without columns", lambda: made(x=np.ones((N, 0))), "x: expected shape"),
    ("x of booleans", lambda: made(x=np.ones((N, 2), bool)), "found dtype bool.*astype"),
    ("x of complex numbers", lambda: made(x=np.ones((N, 2), complex)), "found dtype complex128"),
    ("x of objects", lambda: made(x=np.array([[Decimal(1)]] * N)), "found dtype object"),
    ("x of bytes", lambda: made(x=np.array([[b"a"]] * N)), "found dtype .S1"),
    ("x of dates", lambda: made(x=np.zeros((N, 1), "M8[D]")), "found dtype datetime64"),
    ("x of durations", lambda: made(x=np.zeros((N, 1), "m8[D]")), "found dtype timedelta64"),
    ("x of texts", lambda: made(x=np.array([["a"]] * N)), "found dtype <U1.*texts in a table"),
    ("x masked", lambda: made(x=np.ma.masked_equal(np.eye(N), 1.0)), "masked"),
    ("x sparse", lambda: made(x=csr_matrix(np.ones((N, 2)))), "a dense array, found a sparse one"),
    ("x with NaN", lambda: made(x=np.full((N, 1), np.nan)), r"finite features.*row 0"),
    ("x with infinity", lambda: made(x=np.full((N, 1), np.inf)), r"finite features.*row 0"),
    ("ids of three columns", lambda: made(x=np.ones((N, 3), int)), "integers of shape"),
    ("ids below 0", lambda: made(x=PAIRS - 1), r"ids >= 0, found \[-1, -1\] .first at row 0"),
    ("ids that wrap", lambda: made(x=PAIRS.astype(np.uint64) + np.uint64(2**63)), "ids up to 2147483647"),
    ("ids of 64 bits", lambda: made(x=PAIRS + 2**40), "ids up to 2147483647.*factorize"),
    ("ids beyond n_users", lambda: made(x=PAIRS, n_users=2), "n_users: expected at least 3.*found 2"),
    ("ids beyond n_items", lambda: made(x=PAIRS, n_items=1), "n_items: expected at least 2.*found 1"),
    ("n_users of a float", lambda: made(x=PAIRS, n_users=3.0), "n_users: .* as an int, found 3.0"),
    ("n_users of a boolean", lambda: made(x=PAIRS, n_users=True), "n_users: .*found True"),
    ("n_users of text", lambda: made(x=PAIRS, n_users="3"), "n_users: .*found '3'"),
    ("n_users too large", lambda: made(x=PAIRS, n_users=2**40), "n_users: .*found 1099511627776"),
    ("n_users for features", lambda: made(n_users=3), "n_users: expected none, as x holds features"),
    ("floats for pairs", lambda: made(x=PAIRS * 1.0, pairs=True), "integer user and item ids.*factorize"),
    ("pairs of text", lambda: made(x=PAIRS, pairs="yes"), "pairs: expected True or False"),
    ("pairs of other columns", lambda: made(x=table()[["age", "visits"]], pairs=True), "'user' and 'item'"),
    (
        "pairs with missing ids",
        lambda: made(x=pd.DataFrame({"user": [1.0, None] * 3, "item": range(N)}), pairs=True),
        "column 'user': expected whole numbers from 0",
    ),
    ("pairs and text numbers", lambda: made(x=(PAIRS, np.array([["a"]] * N))), "x: expected numbers"),
    ("pairs and too few numbers", lambda: made(x=(PAIRS, np.ones((2, 1)))), "expected 6 rows of numbers"),
    # t, c, y
    ("t of labels", lambda: made(t=["treatment", "control"] * 3), "It holds 'control' and 'treatment'. Rec"),
    ("t of 1 and 2", lambda: made(t=[1, 2] * 3), r"t: expected 0 or 1, found 2 .*== 2\).astype"),
    ("t of 'TRUE'", lambda: made(t=["TRUE", "FALSE"] * 3), "It holds 'FALSE' and 'TRUE'. Recode it"),
    ("t of '1'", lambda: made(t=["1", "0"] * 3), "t: expected 0 or 1, found '1'"),
    ("t of -1", lambda: made(t=[-1, 1] * 3), "t: expected 0 or 1, found -1 .first at row 0"),
    ("t of complex numbers", lambda: made(t=np.ones(N, complex)), "t: expected 0 or 1, found "),
    ("t of bytes", lambda: made(t=[b"1", b"0"] * 3), "t: expected 0 or 1, found b'1'"),
    ("t of dates", lambda: made(t=np.zeros(N, "M8[D]")), "t: expected 0 or 1"),
    ("t of durations", lambda: made(t=np.ones(N, "m8[ns]")), "t: expected 0 or 1"),
    (
        "t with None",
        lambda: made(t=[1, None, 0, 1, 0, 1]),
        "t: expected 0 or 1, found a missing .*row 1",
    ),
    ("t with pd.NA", lambda: made(t=pd.array([1, None, 0, 1, 0, 1])), "a missing value .first at row 1"),
    ("t masked", lambda: made(t=np.ma.masked_equal(table()["sent"], 0)), "t: .*masked"),
    ("t of one number", lambda: made(t=1), r"t: expected shape \(6,\).*found one int"),
    ("t of a column", lambda: made(t=np.ones((N, 1))), r"t: expected shape \(6,\).*found shape \(6, 1\)"),
    ("t of a dict", lambda: made(t={"a": 1}), "t: expected .*one value for each row"),
    ("t sparse", lambda: made(t=csr_matrix(np.ones(N))), "t: expected a dense array"),
    ("t too short", lambda: made(t=[1, 0]), r"t: expected shape \(6,\)"),
    ("one arm", lambda: made(t=[1] * N), "t: expected rows in both arms, found no row with t = 0"),
    ("c untreated", lambda: made(c=[1] * N), "c: expected 0 wherever t is 0, found 1 .first at row 1"),
    ("y an amount", lambda: made(y=[0, 12.5, 3, 0, 1, 2]), "y: expected 0 or 1, found 12.5.*Amounts"),
    (
        "y of another index",
        lambda: made(x=table()[["age"]], y=OTHER_ROWS),
        "label 'a'",
    ),
    (
        "Series in different orders beside an array",
        lambda: made(t=table()["sent"], c=table()["used"].iloc[SHUFFLED], y=table()["bought"]),
        "c: expected the labels of t, as x has none",
    ),
    ("c missing where t is 0", lambda: made(c=[1, None, 0, None, 1, None]), "missing_collected='untreated'"),
    (
        "c missing where t is 1",
        lambda: made(c=[None, 0, 0, 0, 1, 0], missing_collected="untreated"),
        "c: expected 0 or 1, found a missing value .first at row 0",
    ),
    (
        "missing_collected misspelt",
        lambda: made(missing_collected="zero"),
        "'untreated', found 'zero'",
    ),
    # propensity, cluster, index, encoder
    ("propensity of 1", lambda: made(propensity=1.0), "propensity: .*strictly between 0 and 1"),
    ("propensity True", lambda: made(propensity=True), r"propensity: expected shape \(6,\)"),
    ("propensity of percents", lambda: made(propensity=[50] * N), "propensity: .*found 50.0"),
    ("propensity with NaN", lambda: made(propensity=[0.5, np.nan] * 3), "propensity: .*found nan .*row 1"),
    ("propensity of texts", lambda: made(propensity=["0.5"] * N), "propensity: expected numbers"),
    ("propensity complex", lambda: made(propensity=[0.5j] * N), "propensity: expected numbers"),
    (
        "propensity in another order",
        lambda: made(propensity=pd.Series([0.5] * N).iloc[SHUFFLED]),
        "propensity: .*log itself has no labels",
    ),
    (
        "propensity of other rows",
        lambda: framed(propensity=pd.Series([0.5] * N, index=range(1, N + 1))),
        "propensity: .*label 1 .first at row 0.*reindex",
    ),
    (
        "cluster with None",
        lambda: made(cluster=["a", None] * 3),
        "cluster: expected a label .*row 1",
    ),
    ("cluster of large floats", lambda: made(cluster=[2.0**53 + 2] * N), "cluster: expected ids with all"),
    ("cluster too short", lambda: made(cluster=[1, 2]), r"cluster: expected shape \(6,\)"),
    ("index too short", lambda: made(index=pd.RangeIndex(3)), "index: expected 6 labels"),
    (
        "encoder of other columns",
        lambda: framed(encoder=framed(features=["age"]).encoder),
        "encoder: exp",
    ),
    # tables
    ("frame of a list", lambda: framed([1, 2]), "frame: expected a table"),
    ("frame of a dict", lambda: framed({"sent": [1]}), r"frame: expected a table.*pandas.DataFrame\("),
    ("frame without rows", lambda: framed(table()[:0]), "found"),
    ("role of a Series", lambda: framed(treatment=table()["sent"]), "the name of a column, found a Series"),
    (
        "role that is not there",
        lambda: framed(treatment="mailed"),
        "column 'mailed': .*It has 'sent'",
    ),
    ("one column for two roles", lambda: framed(collected="sent"), "'sent', the column of collected too"),
    (
        "an outcome as propensity",
        lambda: framed(propensity="bought"),
        "the column of propensity too",
    ),
    ("an outcome as cluster", lambda: framed(cluster="sent"), "'sent', the column of cluster too"),
    ("an outcome as feature", lambda: framed(features=["age", "used"]), "known before the assignment"),
    ("features of a text", lambda: framed(features="age"), r"features: .*Pass \['age'\]"),
    ("features of a number", lambda: framed(features=1), "features: expected a list of names"),
    ("categories of a text", lambda: framed(categories="city"), r"categories: .*Pass \['city'\]"),
    (
        "categories not there",
        lambda: framed(categories=["shop"]),
        "categories: expected some of",
    ),
    ("a feature twice", lambda: framed(features=["age", "age"]), "each column once"),
    ("decimal commas", lambda: framed(table(city=["1,5", "2,0"] * 3)), "look like numbers.*decimal commas"),
    ("amounts of money", lambda: framed(table(city=["$1,250.50", "$3.00"] * 3)), "look like numbers"),
    ("dates as texts", lambda: framed(table(city=["2026-01-05", "2025-12-31"] * 3)), "look like dates"),
    ("dates", lambda: framed(table(city=pd.Timestamp("2026-01-05"))), "Turn dates into numbers"),
    ("durations", lambda: framed(table(city=pd.Timedelta("3D"))), "Turn dates into numbers"),
    ("days", lambda: framed(table(city=[datetime.date(2026, 1, 5)] * N)), "Turn dates into numbers"),
    ("months", lambda: framed(table(city=pd.Period("2026-01"))), "Turn dates into numbers"),
    ("complex column", lambda: framed(table(age=1j)), "column 'age': .*complex128"),
    ("bytes", lambda: framed(table(city=[b"Oslo"] * N)), "column 'city': .*b'Oslo'"),
    ("lists", lambda: framed(table(city=[[1]] * N)), r"column 'city': .*\[1\]"),
    ("Arrow lists", lambda: framed(pa.table({**table(), "city": [[1]] * N})), "column 'city': expected"),
    ("numbers and texts", lambda: framed(table(city=["01", 1] * 3)), "int and str in one column.*dtype=str"),
    ("a column without values", lambda: framed(table(age=np.nan)), "column 'age': .*missing values only"),
    ("infinity in a column", lambda: framed(table(age=np.inf)), "column 'age': expected finite numbers"),
    ("ids as numbers", lambda: framed(table(age=BEYOND)), r"below 2\*\*53.*name it in categories="),
    (
        "ids as floats",
        lambda: framed(table(age=float(BEYOND)), categories=["age"]),
        "column 'age': expected ids with all their digits.*Int64",
    ),
    ("fractions as categories", lambda: framed(table(age=0.5), categories=["age"]), "found fractions"),
    ("a query without order", lambda: framed(QUERY()), "frame: expected a table"),
    # fit(X, y)
    (
        "two columns of integers",
        lambda: fitted_xy(PAIRS),
        "may be features or user .*astype.*pairs=",
    ),
    ("y of two columns", lambda: fitted_xy(np.ones((N, 1)), np.ones((N, 2))), r"y: .*found shape \(6, 2\)"),
    ("y of a text", lambda: fitted_xy(np.ones((N, 1)), "used"), "y: expected shape"),
    ("y left out", lambda: cf.IncentiveLog.from_xy(np.ones((N, 1))), "y: .*found none"),
    (
        "outcomes among the features",
        lambda: fitted_xy(table()[["age", "used"]]),
        "which is an outcome too",
    ),
    (
        "y of other rows",
        lambda: fitted_xy(table()[["age"]], table()[["sent", "used", "bought"]].set_axis(list("abcdef"))),
        "y: expected .* labels of the log's rows",
    ),
    # prediction
    ("an unknown category", lambda: encoded(city="Rome"), "'city': expected one of the 2 categories"),
    ("texts for numbers", lambda: encoded(age="30"), "'age': expected finite numbers, found '30'"),
    ("dates at prediction", lambda: encoded(age=pd.Timestamp("2026-01-05")), "Turn dates into numbers"),
    ("durations at prediction", lambda: encoded(age=pd.Timedelta("3D")), "Turn dates into numbers"),
    ("complex at prediction", lambda: encoded(age=1j), "'age': expected finite numbers"),
    (
        "no such column",
        lambda: framed().encoder.encode(table().drop(columns="age")),
        "column 'age': exp",
    ),
    ("raw values", lambda: schema().matrix(table()[FEATURES].to_numpy()), "x: expected a table, as 'city'"),
    ("bare codes", lambda: schema().matrix(np.array(framed().x)), "x: expected a table, as 'city'"),
    (
        "codes of another encoder",
        lambda: schema().matrix(framed(features=["city"]).x),
        "another encoder",
    ),
    ("a table for pairs", lambda: cf.InputSchema(2, (3, 2)).matrix(table()[["age"]]), "'user' and 'item'"),
    ("floats for a model of pairs", lambda: cf.InputSchema(2, (3, 2)).matrix(PAIRS * 1.0), "fitted on pairs"),
    (
        "dates for one of floats",
        lambda: cf.InputSchema(1).matrix(np.zeros((2, 1), "M8[D]")),
        "datetime64",
    ),
    ("a table for a model of arrays", lambda: cf.InputSchema(1).matrix(table()), "expected an array"),
    (
        "another library's table for it",
        lambda: cf.InputSchema(1).matrix(pl.DataFrame({"a": [1.0]})),
        "expected an array",
    ),
    # parts of a log
    ("take by text", lambda: made().take("all"), "rows: expected a mask"),
    ("take by floats", lambda: made().take([0.0, 1.0]), "rows: expected a mask"),
    ("take beyond the end", lambda: made().take([0, N]), "rows: expected positions below 6"),
    ("take by a short mask", lambda: made().take([True, False]), r"rows: expected a mask of shape \(6,\)"),
    (
        "take by a mask of other rows",
        lambda: framed().take(OTHER_ROWS.astype(bool)),
        "rows: .*label 'a'",
    ),
    ("split at 50", lambda: made().split(50), "share: expected a number in .0, 1."),
    ("split at True", lambda: made().split(True), "share: expected"),
    ("split without a seed", lambda: made().split(seed=None), "seed: expected a whole number"),
    ("split by a generator", lambda: made().split(seed=np.random.default_rng(0)), "seed: .*Draw a number"),
    (
        "clusters of other rows",
        lambda: framed().clusters(OTHER_ROWS),
        "clusters: .*'a'",
    ),
]


class QUERY:
    """No table, though it has columns and a length."""

    columns = ("sent", "used", "bought", "age", "city")

    def __len__(self):
        return N


@pytest.mark.parametrize(("call", "message"), [pytest.param(c, m, id=name) for name, c, m in BAD_LOGS])
def test_bad_logs_are_refused_in_words_of_the_library(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert ": expected " in str(caught.value) and ", found " in str(caught.value)


def test_the_catalogue_is_long_and_names_each_case_once():
    names = [name for name, _, _ in BAD_LOGS]
    assert len(set(names)) == len(names) >= 130
