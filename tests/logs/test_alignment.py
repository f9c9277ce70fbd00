"""One value for each row of a log: by label where there are labels, else by position."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, LogError
from cfmtl_lib.logs.alignment import aligned_numbers, aligned_values, label_codes, plain_values

LABELS = pd.Index(["a", "b", "c"])
LONG = 2**60 + 1  # a float cannot hold it


def aligned(value, index=LABELS, n=3):
    return aligned_values("cost", value, index, n).tolist()


@pytest.mark.parametrize("dtype", ["int64", "Int64", "int64[pyarrow]", "float64", "object", "category"])
def test_a_series_in_another_order_is_matched_by_label(dtype):
    assert aligned(pd.Series([3, 1, 2], index=list("cab")).astype(dtype)) == [1, 2, 3]


@pytest.mark.parametrize(
    "column",
    [
        [LONG, 2, 3],
        np.array([LONG, 2, 3]),
        pl.Series([LONG, 2, 3]),
        pa.array([LONG, 2, 3]),
        pa.chunked_array([[LONG], [2, 3]]),
        pa.array([LONG, 2, 3]).dictionary_encode(),
        pd.Index([LONG, 2, 3]),
        pd.array([LONG, 2, 3], dtype="Int64"),
        np.ma.array([LONG, 2, 3]),
    ],
)
def test_what_has_no_labels_goes_by_position(column):
    assert aligned(column) == aligned(column, None) == [LONG, 2, 3]


@pytest.mark.parametrize(
    "column",
    [pl.Series([LONG, None, 3]), pa.array([LONG, None, 3]), pd.Series([LONG, None, 3], LABELS, "Int64")],
)
def test_whole_numbers_beside_a_missing_one_keep_every_digit(column):
    assert aligned(column) == [LONG, None, 3]


def test_numbers_and_texts_do_not_become_alike():
    assert aligned([1, "1", "01"]) == [1, "1", "01"]


def test_several_levels_of_labels_are_matched_too():
    index = pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)])
    value = pd.Series([1, 2, 3], index=index)
    assert aligned(value.iloc[[2, 0, 1]], index) == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "index", "message"),
    [
        (
            pd.Series([1, 2, 3]),
            LABELS,
            r"log's rows \('a', 'b', \.\.\.\), found label 0 .*row 0",
        ),
        (pd.Series([1, 2, 3], index=list("abd")), LABELS, r"found label 'd' \(first at row 2\)"),
        (pd.Series([1, 2, 3], index=list("aab")), LABELS, r"found label 'a' \(first at row 1\)"),
        (pd.Series([1, 2, 3], index=list("bab")), pd.Index(list("abb")), "found label 'b'"),
        (pd.Series([1, 2, 3], index=[2, 1, 0]), None, "the log itself has no labels"),
        (pd.Series([1, 2], index=["a", "b"]), LABELS, r"shape \(3,\), one value for each row"),
        (np.ma.array([1, 2, 3], mask=[0, 1, 0]), None, r"found a masked one \(first at row 1\)"),
        (pd.DataFrame({"z": [1, 2, 3]}, index=LABELS), LABELS, r"found shape \(3, 1\)"),
        ({"a": 1}, LABELS, "found one dict"),
        (None, LABELS, "found one NoneType"),
        ("abc", LABELS, "found one str"),
        ([[1], [2, 3], 4], LABELS, "found list that is none"),
        (pl.LazyFrame({"z": [1, 2, 3]}), None, "found one LazyFrame"),
    ],
)
def test_what_cannot_be_matched_is_refused(value, index, message):
    with pytest.raises(InputError, match=message):
        aligned_values("cost", value, index, 3)


@pytest.mark.parametrize(
    "value", [[Decimal("1.5"), None, True], pa.array([Decimal("1.5"), None, Decimal(1)]), [1.5, np.nan, 1]]
)
def test_decimals_are_numbers(value):
    np.testing.assert_array_equal(aligned_numbers("cost", value, None, 3), [1.5, np.nan, 1.0])


@pytest.mark.parametrize(
    "value",
    [
        ["1", 2, 3],
        ["1", "2", "3"],
        [1j, 2, 3],
        [b"1", 2, 3],
        [10**400, 1, 2],
        [datetime.date(2026, 1, 1)] * 3,
        np.array([1, 2, 3], dtype="m8[D]"),
        pd.Series(pd.to_datetime(["2026-01-01"] * 3)),
        [object(), 1, 2],
    ],
)
def test_what_is_no_number_is_named(value):
    with pytest.raises(LogError, match=r"cost: expected numbers, found .* \(first at row 0\)"):
        aligned_numbers("cost", value, None, 3, error=LogError)


def test_labels_of_mixed_types_are_numbered():
    names, member = label_codes(np.array(["b", 7, (1, 2), "b", "7"], dtype=object))
    assert names.tolist() == [7, "7", "b", (1, 2)] and member.tolist() == [2, 0, 3, 2, 1]
    names, member = label_codes(np.array(["b", "a", "b"]))
    assert names.tolist() == ["a", "b"] and member.tolist() == [1, 0, 1]


def test_columns_of_categories_of_numbers_hold_numbers():
    assert plain_values(pd.Series([3, 1, 3], dtype="category")).tolist() == [3, 1, 3]
    assert plain_values(pd.Series([3, None, 1]).astype("Int64").astype("category")).tolist() == [3, None, 1]


def rows(index):
    """Four rows in which every column tells in which order it is."""
    return pd.DataFrame(
        {
            "z": [0.0, 1.0, 2.0, 3.0],
            "t": [1, 0, 1, 0],
            "c": [1, 0, 0, 0],
            "y": [1, 0, 0, 1],
            "e": [0.1, 0.2, 0.3, 0.4],
        },
        index=index,
    )


def test_a_log_of_a_table_knows_its_labels_and_matches_every_argument():
    table = rows(list("abcd"))
    other = table.sort_values("y")
    log = cf.IncentiveLog(
        table[["z"]], other["t"], other["c"], other["y"], propensity=other["e"], cluster=other["z"]
    )
    for name in ("t", "c", "y"):
        assert getattr(log, name).tolist() == table[name].tolist()
    assert log.propensity.tolist() == table["e"].tolist() and log.cluster.tolist() == [0, 1, 2, 3]
    assert log.index.tolist() == list("abcd")
    assert log.take([0, 1]).index.tolist() == ["a", "b"]
    first, second = log.split(0.5, seed=2)
    assert sorted([*first.index, *second.index]) == list("abcd")
    assert [table["e"][label] for label in first.index] == first.propensity.tolist()


def test_from_frame_and_fit_match_by_label():
    table = rows([10, 11, 12, 13])
    log = cf.IncentiveLog.from_frame(
        table,
        treatment="t",
        collected="c",
        converted="y",
        features=["z"],
        propensity=table["e"].sort_values(ascending=False),
    )
    assert log.propensity.tolist() == table["e"].tolist()
    by_label = cf.IncentiveLog.from_xy(table[["z"]], table.sort_values("y")[["t", "c", "y"]])
    assert by_label.t.tolist() == table["t"].tolist() and by_label.y.tolist() == table["y"].tolist()
    with pytest.raises(LogError, match=r"y: expected a Series with the labels .* found label 0"):
        cf.IncentiveLog.from_xy(table[["z"]], table[["t", "c", "y"]].reset_index(drop=True))


def test_features_without_labels_take_those_on_which_all_outcomes_agree():
    table = rows(list("abcd"))
    log = cf.IncentiveLog(table[["z"]].to_numpy(), table["t"], table["c"], table["y"])
    assert log.index.tolist() == list("abcd")
    with pytest.raises(LogError, match="y: expected the labels of t, as x has none"):
        cf.IncentiveLog(table[["z"]].to_numpy(), table["t"], table["c"], table.sort_values("y")["y"])
    with pytest.raises(LogError, match=r"t: expected an array, or a Series with labels 0, 1, 2"):
        cf.IncentiveLog(table[["z"]].to_numpy(), table["t"], [1, 0, 0, 0], [1, 0, 0, 1])
    of_arrays = cf.IncentiveLog(table[["z"]].to_numpy(), *table[["t", "c", "y"]].to_numpy().T)
    assert of_arrays.index is None and of_arrays.take([0, 1]).index is None
    with pytest.raises(LogError, match=r"propensity: .*the log itself has no labels"):
        cf.IncentiveLog(of_arrays.x, of_arrays.t, of_arrays.c, of_arrays.y, propensity=table["e"])
