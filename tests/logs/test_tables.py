"""Tables of every library are read by name, digit by digit, and arrays of codes only where they are known."""

import copy
import datetime
import pickle
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

import cfmtl_lib as cf
from cfmtl_lib.errors import LogError, UnknownCategoryWarning
from cfmtl_lib.logs.encoding import EncodedRows, FrameEncoder

N = 80
FEATURES = ["age", "city", "member"]
OUTCOMES = ["sent", "used", "bought"]
ROLES = {"treatment": "sent", "collected": "used", "converted": "bought"}
LONG = 2**60 + 1  # a float cannot hold it


def campaign():
    rng = np.random.default_rng(0)
    sent = rng.integers(0, 2, N)
    frame = pd.DataFrame(
        {
            "sent": sent,
            "used": sent * rng.integers(0, 2, N),
            "bought": rng.integers(0, 2, N),
            "age": rng.normal(40, 9, N).round(),
            "city": rng.choice(["Oslo", "Bergen", "Ås"], N),
            "member": rng.integers(0, 2, N).astype(bool),
        }
    )
    frame.loc[3, "age"], frame.loc[5, "city"] = np.nan, None
    return frame


def in_polars(frame):
    return pl.from_pandas(frame)


def in_arrow(frame):
    return pa.Table.from_pandas(frame)


OTHERS = {
    "polars": in_polars,
    "polars, lazy": lambda frame: in_polars(frame).lazy(),
    "polars, categorical": lambda frame: in_polars(frame).with_columns(pl.col("city").cast(pl.Categorical)),
    "polars, enum": lambda frame: in_polars(frame).with_columns(
        pl.col("city").cast(pl.Enum(["Bergen", "Oslo", "Ås"]))
    ),
    "polars, decimals": lambda frame: in_polars(frame).with_columns(pl.col("age").cast(pl.Decimal(12, 2))),
    "arrow": in_arrow,
    "arrow, record batch": pa.RecordBatch.from_pandas,
    "arrow, with an index": lambda frame: in_arrow(frame.set_index(np.arange(N)[::-1])),
    "arrow, dictionary": lambda frame: in_arrow(frame.astype({"city": "category"})),
    "pandas, nullable": lambda frame: frame.convert_dtypes(),
    "pandas, arrow": lambda frame: frame.convert_dtypes(dtype_backend="pyarrow"),
    "pandas, objects": lambda frame: frame.astype(object),
    "pandas, categories": lambda frame: frame.astype({"city": "category"}),
    "pandas, decimals": lambda frame: frame.assign(
        age=[None if np.isnan(age) else Decimal(int(age)) for age in frame["age"]]
    ),
}


def log_of(frame, **options):
    return cf.IncentiveLog.from_frame(frame, **({**ROLES, "features": FEATURES} | options))


@pytest.fixture(scope="module")
def frame():
    return campaign()


@pytest.fixture(scope="module")
def model(frame):
    return cf.CFOR(outcome=LogisticRegression(max_iter=200)).fit(log_of(frame))


@pytest.mark.parametrize("library", OTHERS)
def test_a_table_of_any_library_gives_the_same_log(frame, library):
    expected, found = log_of(frame), log_of(OTHERS[library](frame))
    np.testing.assert_array_equal(found.x, expected.x)
    assert found.encoder == expected.encoder
    for name in ("t", "c", "y"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.index is None) == (not library.startswith("pandas"))


@pytest.mark.parametrize("library", OTHERS)
def test_predictions_find_columns_by_name(frame, model, library):
    turned = OTHERS[library](frame[FEATURES[::-1]])
    np.testing.assert_array_equal(
        model.predict_reward(turned, "coupon", 0.4), model.predict_reward(frame, "coupon", 0.4)
    )


@pytest.mark.parametrize("library", ["polars", "arrow", "polars, lazy", "pandas, nullable"])
def test_fit_takes_tables_of_any_library(frame, library):
    learner = LogisticRegression(max_iter=200)
    other = cf.CFOR(outcome=learner).fit(
        OTHERS[library](frame[FEATURES]), OTHERS[library](frame[OUTCOMES].astype("Int64"))
    )
    expected = cf.CFOR(outcome=learner).fit(frame[FEATURES], frame[OUTCOMES])
    np.testing.assert_array_equal(other.predict(frame), expected.predict(frame[FEATURES[::-1]]))


def test_outcomes_are_found_by_name_where_they_have_their_names(frame):
    named = frame[OUTCOMES].set_axis(["treatment", "collected", "converted"], axis=1)
    log = cf.IncentiveLog.from_xy(frame[FEATURES], named[["converted", "treatment", "collected"]])
    np.testing.assert_array_equal(log.y, frame["bought"])
    np.testing.assert_array_equal(log.c, frame["used"])
    short = named.set_axis(list("tcy"), axis=1)[list("yct")]
    np.testing.assert_array_equal(cf.IncentiveLog.from_xy(frame[FEATURES], in_polars(short)).t, frame["sent"])


def test_constructor_takes_a_table_by_name(frame):
    outcomes = [frame[name].to_numpy() for name in OUTCOMES]
    log = cf.IncentiveLog(in_polars(frame[FEATURES]), *outcomes)
    np.testing.assert_array_equal(log.x, log_of(frame).x)
    assert log.encoder == log_of(frame).encoder


WHOLE = pd.DataFrame({"orders": [3, 1, 4, 1], "visits": [1, 0, 2, 1]})
SENT, USED, BOUGHT = [1, 0, 1, 0], [1, 0, 0, 0], [1, 0, 1, 1]
Y = np.column_stack([SENT, USED, BOUGHT])
TREE = DecisionTreeClassifier(max_depth=2, random_state=0)
ONE_EPOCH = cf.FitConfig(max_epochs=1)


@pytest.mark.parametrize("table", [WHOLE, WHOLE.astype("Int64"), in_polars(WHOLE), in_arrow(WHOLE)])
def test_two_columns_of_whole_numbers_are_features(table):
    for log in (
        cf.IncentiveLog(table, SENT, USED, BOUGHT),
        cf.IncentiveLog.from_xy(table, Y),
        cf.IncentiveLog(WHOLE.to_numpy(), SENT, USED, BOUGHT, pairs=False),
        cf.IncentiveLog.from_xy(WHOLE.to_numpy(), Y, pairs=False),
        cf.IncentiveLog.from_xy(WHOLE.to_numpy().astype(float), Y),
    ):
        assert not log.is_pairs
        np.testing.assert_array_equal(log.x, WHOLE)
    three = np.column_stack([WHOLE, WHOLE["orders"]])
    np.testing.assert_array_equal(cf.IncentiveLog.from_xy(three, Y).x, three)


def test_they_are_ids_where_that_is_said():
    pairs = WHOLE.to_numpy()
    table = WHOLE.set_axis(["item", "user"], axis=1)
    for log in (
        cf.IncentiveLog(pairs, SENT, USED, BOUGHT),
        cf.IncentiveLog(pairs, SENT, USED, BOUGHT, pairs=True),
        cf.IncentiveLog(table[["user", "item"]].to_numpy()[:, ::-1], SENT, USED, BOUGHT),
        cf.IncentiveLog.from_xy(pairs, Y, pairs=True),
    ):
        assert log.pair_space == (5, 3)
    for model in (cf.OR(config=ONE_EPOCH), cf.CFMTL(config=ONE_EPOCH), cf.CFMTLv1(config=ONE_EPOCH)):
        with pytest.warns(ConvergenceWarning):
            assert model.fit(pairs, Y, pairs=True).schema_.pair_space == (5, 3)
        with pytest.raises(LogError, match="may be features or user and item ids"):
            model.fit(pairs, Y)
    by_name = cf.IncentiveLog(in_polars(table), SENT, USED, BOUGHT, pairs=True)
    np.testing.assert_array_equal(by_name.x, table[["user", "item"]])
    np.testing.assert_array_equal(cf.InputSchema.from_log(by_name).matrix(table), by_name.x)


def test_numbers_beside_pairs_are_found_by_name_too():
    pairs = WHOLE.to_numpy()
    numbers = pd.DataFrame({"age": [30.0, 41, 50, 22], "spent": [1.0, 2, 3, 4]})
    log = cf.IncentiveLog((pairs, numbers), SENT, USED, BOUGHT)
    assert log.encoder.names == ("user", "item", "age", "spent")
    np.testing.assert_array_equal(
        cf.InputSchema.from_log(log).matrix((pairs, numbers[["spent", "age"]])), log.x
    )


@pytest.mark.parametrize(
    "column",
    [
        pd.array([LONG, None, LONG + 1], dtype="Int64"),
        pd.array([LONG, None, LONG + 1], dtype="UInt64"),
        pd.Series([LONG, None, LONG + 1], dtype=pd.ArrowDtype(pa.int64())),
        pd.Series([LONG, None, LONG + 1], dtype=object),
        pd.Series([Decimal(LONG), None, Decimal(LONG + 1)]),
        pd.Series(pd.array([LONG, None, LONG + 1], dtype="Int64")).astype("category"),
        pl.Series([LONG, None, LONG + 1]).to_arrow().to_pandas(types_mapper=pd.ArrowDtype),
    ],
)
def test_ids_beside_missing_ones_keep_every_digit(column):
    frame = pd.DataFrame({"shop": column})
    encoder = FrameEncoder.learn(frame, ["shop"], ["shop"])
    assert encoder.columns[0].categories == (LONG, LONG + 1)
    assert encoder.encode(frame)[:, 0].tolist() == [1, 0, 2]
    assert encoder.encode(in_polars(pd.DataFrame({"shop": pd.array([LONG + 1], "Int64")})))[
        :, 0
    ].tolist() == [2]


def in_dictionary(values):
    """Encode rows by a dictionary that has a level twice, or a missing one, as Arrow allows."""
    return pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 1]), pa.array(values))


@pytest.mark.parametrize(
    ("column", "kind", "expected"),
    [
        (in_dictionary(["b", "a"]), ("a", "b"), [2, 1, 2, 1]),
        (in_dictionary(["a", None]), ("a",), [1, 0, 1, 0]),
        (in_dictionary(["a", "a"]), ("a",), [1, 1, 1, 1]),
        (in_dictionary([LONG + 1, LONG]), (LONG, LONG + 1), [2, 1, 2, 1]),
        (in_dictionary([Decimal(7), Decimal(5)]), (5, 7), [2, 1, 2, 1]),
        (
            pa.chunked_array([in_dictionary(["b", "a"]), in_dictionary(["c", "a"])]).slice(2, 4),
            None,
            [2, 1, 3, 1],
        ),
        (pa.array(["b", "a", None, "b"], pa.string_view()), ("a", "b"), [2, 1, 0, 2]),
        (pa.RunEndEncodedArray.from_arrays([3, 4], ["b", "a"]), ("a", "b"), [2, 2, 2, 1]),
        (
            pa.array([Decimal("1.5"), None, Decimal(2), Decimal(0)], pa.decimal256(40, 2)),
            (),
            [1.5, np.nan, 2, 0],
        ),
        (pa.array([1, None, 0, 2], pa.uint64()), (), [1, np.nan, 0, 2]),
        (pa.array([True, None, False, True]), (), [1, np.nan, 0, 1]),
    ],
)
def test_columns_of_arrow_are_what_they_hold(column, kind, expected):
    table = pa.table({"shop": column})
    encoder = FrameEncoder.learn(table, ["shop"])
    assert kind is None or encoder.columns[0].categories == kind
    np.testing.assert_array_equal(encoder.encode(table)[:, 0], expected)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"a"] * 4, pa.binary_view()),
        pa.array([[1]] * 4),
        pa.array([(1, 2, 3)] * 4, pa.month_day_nano_interval()),
        pa.array([datetime.date(2026, 1, 1)] * 4),
        in_dictionary([datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)]),
        in_dictionary([0.5, 1.5]),
    ],
)
def test_columns_of_arrow_that_are_no_features_are_named_and_do_no_harm_beside(column):
    table = pa.table({"shop": column, "age": [1.0, 2.0, 3.0, 4.0]})
    with pytest.raises(LogError, match="column 'shop': expected"):
        FrameEncoder.learn(table, ["shop"])
    assert FrameEncoder.learn(table, ["age"]).encode(table)[:, 0].tolist() == [1, 2, 3, 4]


def test_codes_with_leading_zeros_stay_apart():
    frame = pd.DataFrame({"shop": ["01", "1", "001", None]})
    encoder = FrameEncoder.learn(frame, ["shop"])
    assert encoder.columns[0].categories == ("001", "01", "1")
    assert encoder.encode(in_arrow(frame))[:, 0].tolist() == [2, 3, 1, 0]
    with pytest.raises(LogError, match=r"column 'shop': expected one of the 3 categories .* found 1 "):
        encoder.encode(pd.DataFrame({"shop": [1]}))
    of_numbers = FrameEncoder.learn(pd.DataFrame({"shop": [1, 2]}), ["shop"], ["shop"])
    assert of_numbers.encode(pd.DataFrame({"shop": [2.0, np.nan]}))[:, 0].tolist() == [2, 0]
    with pytest.raises(LogError, match="found '1'"):
        of_numbers.encode(pd.DataFrame({"shop": ["1"]}))


def test_categories_of_whole_numbers_are_named_by_their_dtype():
    shops = pd.Categorical([30, 10, None], categories=[10, 20, 30])
    encoder = FrameEncoder.learn(pd.DataFrame({"shop": shops}), ["shop"])
    assert encoder.columns[0].categories == (10, 20, 30)
    assert encoder.encode(pd.DataFrame({"shop": shops}))[:, 0].tolist() == [3, 1, 0]


@pytest.mark.parametrize("texts", [["1.5", "2.0"], [str(zipcode) for zipcode in range(100, 130)]])
def test_texts_of_digits_are_categories_if_they_are_called_so(texts):
    frame = pd.DataFrame({"size": texts})
    with pytest.raises(LogError, match="texts that look like numbers"):
        FrameEncoder.learn(frame, ["size"])
    for encoder in (
        FrameEncoder.learn(frame, ["size"], ["size"]),
        FrameEncoder.learn(frame.astype("category"), ["size"]),
    ):
        assert encoder.columns[0].categories == tuple(sorted(texts))


@pytest.mark.parametrize(
    ("column", "empty", "code"), [("age", np.nan, np.nan), ("age", None, 0), ("city", None, 0)]
)
def test_a_fold_without_a_value_of_a_column_can_be_fitted(frame, column, empty, code):
    lacking = frame[FEATURES].assign(**{column: [empty] * N})
    model = cf.CFOR(outcome=TREE).fit(lacking, frame[OUTCOMES])
    matrix = model.schema_.matrix(lacking)
    np.testing.assert_array_equal(matrix[:, FEATURES.index(column)], np.full(N, code))
    if code == 0:
        with pytest.warns(UnknownCategoryWarning, match=f"column '{column}'"):
            np.testing.assert_array_equal(model.predict(frame), model.predict(lacking))
    with pytest.raises(LogError, match=f"column '{column}': expected some value"):
        log_of(frame.assign(**{column: [empty] * N}))


def test_clusters_of_mixed_and_long_labels():
    rows = {"x": WHOLE.to_numpy() * 1.0, "t": SENT, "c": USED, "y": BOUGHT}
    log = cf.IncentiveLog(**rows, cluster=["a", 1, "1", "a"])
    assert log.cluster.tolist() == ["a", 1, "1", "a"]
    first, second = cf.IncentiveLog(**rows, cluster=["a", "a", 1, 1]).split(0.5, seed=0)
    assert len(first) == len(second) == 2
    everybody = np.ones(4, dtype=bool)
    nuisances = cf.LogNuisances(*[np.full(4, 0.5)] * 5)
    for labels, n in ((["a", 1, "1", "a"], 3), ([LONG, LONG + 1, LONG, None], None)):
        if n is None:
            with pytest.raises(LogError, match=r"found a missing one \(first at row 3\)"):
                cf.IncentiveLog(**rows, cluster=pl.Series(labels))
        else:
            log = cf.IncentiveLog(**rows, cluster=labels)
            assert cf.policy_value(everybody, log, nuisances, cost=0.4).n_clusters == n
    assert (
        len(set(cf.IncentiveLog(**rows, cluster=pl.Series([LONG, LONG + 1, LONG, 1])).cluster.tolist())) == 3
    )


def test_missing_redemption_of_the_untreated_is_none_where_that_is_said(frame):
    lacking = frame.assign(used=frame["used"].where(frame["sent"] == 1))
    for table in (lacking, in_polars(lacking), lacking.convert_dtypes()):
        with pytest.raises(LogError, match="missing_collected='untreated'"):
            log_of(table)
        np.testing.assert_array_equal(log_of(table, missing_collected="untreated").c, frame["used"])
    log = cf.IncentiveLog(
        frame[["age"]], frame["sent"], lacking["used"], frame["bought"], missing_collected="untreated"
    )
    np.testing.assert_array_equal(log.c, frame["used"])
    np.testing.assert_array_equal(log.take(np.arange(40)).c, frame["used"][:40])


def test_one_propensity_holds_for_all_rows(frame):
    for log in (log_of(frame, propensity=0.5), log_of(frame, propensity=Decimal("0.5"))):
        np.testing.assert_array_equal(log.propensity, np.full(N, 0.5))


def test_a_log_stays_as_it_was_checked():
    rows = {
        "x": WHOLE.to_numpy().copy(),
        "t": np.array(SENT),
        "c": np.array(USED),
        "y": np.array(BOUGHT),
        "propensity": np.full(4, 0.5),
        "cluster": np.arange(4),
    }
    log = cf.IncentiveLog(**rows)
    kept = {name: getattr(log, name).tolist() for name in rows}
    for name, values in rows.items():
        values[:] = 1
        for part in (log, log.take([0, 1, 2, 3])):
            with pytest.raises(ValueError, match="read-only"):
                getattr(part, name)[0] = 0
    assert {name: getattr(log, name).tolist() for name in rows} == kept


def test_codes_know_their_encoder_and_nothing_else_does(frame):
    log = log_of(frame)
    matrix = cf.InputSchema.from_log(log).matrix
    for known in (log.x, log.x[:5], log.x[log.t == 1], log.take(np.arange(40)).x, log.x.copy()):
        np.testing.assert_array_equal(matrix(known), known)
    for known in (copy.copy(log.x), copy.deepcopy(log.x), pickle.loads(pickle.dumps(log.x))):
        np.testing.assert_array_equal(matrix(known), log.x)
    restored = pickle.loads(pickle.dumps(log))
    np.testing.assert_array_equal(matrix(restored.x), log.x)
    for unknown in (
        np.array(log.x),
        log.x + 0,
        log.x[:, ::-1],
        log.x[:, [0, 1, 2]],
        np.asarray(log.x),
        log.x.T,
    ):
        assert not isinstance(unknown, EncodedRows) or unknown.encoder is None
        with pytest.raises(LogError, match="x: expected"):
            matrix(unknown)
    again = cf.IncentiveLog(log.x, log.t, log.c, log.y)
    assert again.encoder == log.encoder
