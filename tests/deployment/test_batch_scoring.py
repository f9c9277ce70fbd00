"""Scores of Parquet files: the same as in memory, chunk by chunk, whole or not at all."""

import datetime
import decimal
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib.deployment import batch_scoring
from cfmtl_lib.errors import InputError, LogError, UnknownNameError


@pytest.fixture(scope="module")
def study():
    return cf.simulated_campaign(1000, seed=3)


@pytest.fixture(scope="module")
def model(study):
    return cf.CFOR(outcome=LogisticRegression(max_iter=300)).fit(study.log())


@pytest.fixture
def source(study, tmp_path):
    path = tmp_path / "customers.parquet"
    study.table.assign(price=np.linspace(0.1, 0.6, 1000)).to_parquet(path, row_group_size=170)
    return path


def test_chunks_give_what_memory_gives(study, model, source, tmp_path):
    target = tmp_path / "out" / "scores.parquet"
    n = cf.score_parquet(model, source, target, keep=["customer"], cost=0.3, rows_per_chunk=64)
    scores = pd.read_parquet(target)
    assert n == len(scores) == 1000
    assert scores.columns.tolist() == ["customer", *batch_scoring.STRATA_COLUMNS, "reward"]
    np.testing.assert_array_equal(scores["customer"], study.table["customer"])
    np.testing.assert_allclose(
        scores[list(batch_scoring.STRATA_COLUMNS)], model.predict_strata(study.table), rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(scores["reward"], model.predict_reward(study.table, "coupon", 0.3), atol=1e-12)
    assert list(target.parent.iterdir()) == [target]


class Cautious(cf.CFOR):
    def predict_reward(self, x, scenario, cost):
        return super().predict_reward(x, scenario, cost) - 0.1


@pytest.mark.parametrize("kind", [cf.OR, Cautious])
def test_costs_can_be_a_column_and_rewards_are_those_of_the_model(kind, study, source, tmp_path):
    target = tmp_path / "scores.parquet"
    uplift = kind(outcome=LogisticRegression(max_iter=300)).fit(study.log())
    cf.score_parquet(uplift, source, target, cost="price", rows_per_chunk=300)
    scores = pd.read_parquet(target)
    assert len(scores.columns) == (1 if kind is cf.OR else 6)
    expected = uplift.predict_reward(study.table, "coupon", pd.read_parquet(source)["price"])
    np.testing.assert_allclose(scores["reward"], expected, atol=1e-12)


def test_memory_is_bounded_by_the_chunk(model, study, tmp_path, monkeypatch):
    source, target = tmp_path / "many.parquet", tmp_path / "scores.parquet"
    pd.concat([study.table] * 30).to_parquet(source)
    sizes = []
    real = batch_scoring._scores
    monkeypatch.setattr(batch_scoring, "_scores", lambda m, x, s, c: sizes.append(len(x)) or real(m, x, s, c))
    assert cf.score_parquet(model, source, target, rows_per_chunk=4000, cost=0.4) == 30_000
    assert max(sizes) <= 4000 and sum(sizes) == 30_000
    assert pq.ParquetFile(target).metadata.num_row_groups == len(sizes)


def test_a_bad_row_is_named_by_its_place_in_the_file_and_leaves_nothing(model, study, tmp_path):
    source, target = tmp_path / "customers.parquet", tmp_path / "scores.parquet"
    table = study.table.copy()
    table.loc[777, "city"] = "Rome"
    table.to_parquet(source)
    target.write_bytes(b"older")
    with pytest.raises(LogError, match=r"column 'city': .* found 'Rome' \(first at row 777\)"):
        cf.score_parquet(model, source, target, rows_per_chunk=100, cost=0.4)
    assert target.read_bytes() == b"older"
    assert sorted(tmp_path.iterdir()) == [source, target]
    assert cf.score_parquet(model, source, target, unknown="missing", cost=0.4) == 1000
    as_missing = table.assign(city=table["city"].where(table["city"] != "Rome", None))
    np.testing.assert_allclose(
        pd.read_parquet(target)["reward"], model.predict_reward(as_missing, "coupon", 0.4), atol=1e-12
    )


def test_what_cannot_be_scored_is_refused(model, source, tmp_path, study):
    target = tmp_path / "scores.parquet"
    with pytest.raises(UnknownNameError, match=r"expected a column of customers\.parquet"):
        cf.score_parquet(model, source, target, keep=["id"], cost=0.4)
    with pytest.raises(InputError, match="one of arrays, which knows no columns"):
        cf.score_parquet(cf.CFOR().fit(cf.simulated_features(500).log), source, target, cost=0.4)
    with pytest.raises(InputError, match="rows_per_chunk"):
        cf.score_parquet(model, source, target, rows_per_chunk=0, cost=0.4)
    with pytest.raises(UnknownNameError, match="unknown"):
        cf.score_parquet(model, source, target, unknown="ignore", cost=0.4)
    with pytest.raises(FileNotFoundError):
        cf.score_parquet(model, tmp_path / "none.parquet", target, cost=0.4)
    study.table[:0].to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(LogError, match="at least one row"):
        cf.score_parquet(model, tmp_path / "empty.parquet", target, cost=0.4)
    assert not target.exists()


BIG = 9_007_199_254_740_993  # 2^53 + 1: no float holds it


def with_columns(table, **columns):
    rows = pa.Table.from_pandas(table, preserve_index=False)
    for name, values in columns.items():
        rows = rows.append_column(name, values)
    return rows


KEPT = {
    "ids, none missing": lambda n: pa.array([BIG + 2 * k for k in range(n)]),
    "ids, one missing": lambda n: pa.array([None, *(BIG + 2 * k for k in range(1, n))]),
    "ids missing in the last chunk": lambda n: pa.array([*(BIG + 2 * k for k in range(n - 1)), None]),
    "uint64": lambda n: pa.array([2**64 - 1 - k if k % 3 else None for k in range(n)], pa.uint64()),
    "leading zeros": lambda n: pa.array([("01", "1", None)[k % 3] for k in range(n)]),
    "dictionary": lambda n: pa.array([("01", "1", None)[k % 3] for k in range(n)]).dictionary_encode(),
    "decimal": lambda n: pa.array([decimal.Decimal("12345678901234567.89")] * n, pa.decimal128(20, 2)),
    "timestamp": lambda n: pa.array(
        [datetime.datetime(2024, 3, 31, 2)] * n, pa.timestamp("us", "Europe/Oslo")
    ),
    "list": lambda n: pa.array([[BIG, None]] * n),
    "struct": lambda n: pa.array([{"a": BIG, "b": None}] * n),
}


@pytest.mark.parametrize("kind", KEPT)
def test_kept_columns_keep_type_and_every_digit(kind, model, study, tmp_path):
    rows = with_columns(study.table[:300], kept=KEPT[kind](300))
    pq.write_table(rows, tmp_path / "in.parquet", row_group_size=90)
    cf.score_parquet(
        model, tmp_path / "in.parquet", tmp_path / "out.parquet", keep=["kept"], cost=0.4, rows_per_chunk=40
    )
    out = pq.read_table(tmp_path / "out.parquet")["kept"]
    assert out.type == rows["kept"].type
    assert out.to_pylist() == rows["kept"].to_pylist()
    if "ids" in kind or kind == "uint64":  # with pandas, too
        read = pd.read_parquet(tmp_path / "out.parquet")["kept"]
        assert [None if pd.isna(v) else v for v in read] == rows["kept"].to_pylist()


def test_what_pandas_stored_beside_the_columns_changes_nothing(model, study, tmp_path):
    """An index of customers is a column of the file; stored types of pandas do not make ids floats."""
    table = study.table.assign(customer=pd.array([None, *(BIG + 2 * k for k in range(1, 1000))], "Int64"))
    table.set_index("customer").to_parquet(tmp_path / "in.parquet")
    cf.score_parquet(model, tmp_path / "in.parquet", tmp_path / "out.parquet", keep=["customer"], cost=0.4)
    assert pq.read_table(tmp_path / "out.parquet")["customer"].to_pylist()[:2] == [None, BIG + 2]


def test_folders_and_patterns_are_their_files_in_order_with_columns_by_name(model, study, tmp_path):
    folder = tmp_path / "customers"
    (folder / "later").mkdir(parents=True)
    reward = model.predict_reward(study.table, "coupon", 0.4)
    table = study.table.assign(customer=np.arange(1000))
    parts = [folder / "a.parquet", folder / "b.parquet", folder / "later" / "c.parquet"]
    table[:300].to_parquet(parts[0])
    table[300:600][table.columns[::-1]].assign(more=1).to_parquet(parts[1])
    table[600:].astype({"customer": "int32", "orders": "float64"}).to_parquet(parts[2])
    (folder / "_SUCCESS").write_text("")
    (folder / ".a.parquet.crc").write_text("x")
    for source, n in ((folder, 1000), (str(folder / "*.parquet"), 600), (str(folder / "**/*.parquet"), 1000)):
        target = tmp_path / "scores.parquet"
        assert cf.score_parquet(model, source, target, keep=["customer"], cost=0.4, rows_per_chunk=170) == n
        scores = pd.read_parquet(target)
        assert scores["customer"].tolist() == list(range(n))
        np.testing.assert_allclose(scores["reward"], reward[:n], atol=1e-12)


@pytest.mark.parametrize("row", [0, 89, 90, 91, 250, 299])
def test_a_bad_row_of_several_files_is_named_by_its_file_and_its_row_there(row, model, study, tmp_path):
    """Row groups of 90 and chunks of 40: neither is what a reader can look up."""
    for name, part in (("a", study.table[:300]), ("b", study.table[300:600].reset_index(drop=True))):
        part = part.copy()
        if name == "b":
            part.loc[row, "city"] = "Rome"
        part.to_parquet(tmp_path / f"{name}.parquet", row_group_size=90)
    with pytest.raises(LogError, match=rf"b\.parquet, column 'city': .*'Rome' \(first at row {row}\)"):
        cf.score_parquet(
            model, str(tmp_path / "?.parquet"), tmp_path / "scores.parquet", cost=0.4, rows_per_chunk=40
        )
    assert not (tmp_path / "scores.parquet").exists()


def links_to(source, name, kind):
    path = source.with_name(name)
    {"symbolic link": path.symlink_to, "hard link": path.hardlink_to}[kind](source)
    return path


@pytest.mark.parametrize(
    "case",
    [
        "the same path",
        "relative",
        "symbolic link",
        "hard link",
        "in the folder",
        "below it",
        "by the pattern",
    ],
)
def test_the_target_is_never_a_source(case, model, source, tmp_path, monkeypatch):
    before = source.read_bytes()
    monkeypatch.chdir(tmp_path)
    given, target = source, source
    if case == "relative":
        target = os.path.join("..", tmp_path.name, source.name)
    elif "link" in case:
        target = links_to(source, "scores.parquet", case)
    elif case in ("in the folder", "below it"):
        given = tmp_path
        target = tmp_path / ("new/scores.parquet" if case == "below it" else "scores.parquet")
    elif case == "by the pattern":
        given, target = "*.parquet", tmp_path / "scores.parquet"
    with pytest.raises(InputError, match="target: expected a file apart from the source"):
        cf.score_parquet(model, given, target, cost=0.4)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (["reward"], "keep: expected columns whose names differ from those of the scores, found 'reward'"),
        (["p_coupon_buyer"], "keep: expected columns whose names differ .* found 'p_coupon_buyer'"),
        (["city", "city"], "keep: expected each column once, found 'city' twice"),
        ("city", "keep: expected a list of names of columns, found 'city'"),
        ([3], "keep: expected a list of names"),
    ],
)
def test_columns_that_cannot_be_kept(keep, message, model, study, tmp_path):
    study.table.assign(reward="gold", p_coupon_buyer=1).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(InputError, match=message):
        cf.score_parquet(model, tmp_path / "in.parquet", tmp_path / "out.parquet", keep=keep, cost=0.4)


def damaged(path, how):
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut short":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "text":
        path.write_text("age,city\n1,Oslo\n")
    else:
        middle = bytearray(path.read_bytes())
        middle[4 : len(middle) // 2] = bytes(len(middle) // 2 - 4)
        path.write_bytes(bytes(middle))


@pytest.mark.parametrize("how", ["empty", "cut short", "text", "overwritten pages"])
def test_a_damaged_file_of_several_is_named(how, model, study, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        study.table[:300].to_parquet(folder / f"{name}.parquet")
    damaged(folder / "b.parquet", how)
    with pytest.raises(LogError, match=r"b\.parquet: expected a (complete )?Parquet file, found"):
        cf.score_parquet(model, folder, tmp_path / "out.parquet", cost=0.4)
    assert not (tmp_path / "out.parquet").exists()


def test_files_of_other_schemas_are_named(model, study, tmp_path):
    folder, target = tmp_path / "in", tmp_path / "out.parquet"
    folder.mkdir()
    table = study.table.assign(id=np.arange(1000))
    table[:300].to_parquet(folder / "a.parquet")
    table[300:].drop(columns="city").to_parquet(folder / "b.parquet")
    with pytest.raises(UnknownNameError, match=r"a column of b\.parquet: .* found 'city'"):
        cf.score_parquet(model, folder, target, cost=0.4)
    for other in (table["id"] + 0.5, table["id"].astype(str), table["id"].astype("uint64")):
        table.assign(id=other)[300:].to_parquet(folder / "b.parquet")
        with pytest.raises(LogError, match=r"b\.parquet, column 'id': expected type int64, as in a\.parquet"):
            cf.score_parquet(model, folder, target, keep=["id"], cost=0.4)
    # A column without any value has no type of its own.
    table.assign(id=None)[300:].to_parquet(folder / "b.parquet")
    cf.score_parquet(model, folder, target, keep=["id"], cost=0.4)
    assert pq.read_table(target)["id"].to_pylist() == [*range(300), *[None] * 700]
    twice = pa.Table.from_pandas(study.table).append_column("city", pa.array(["Oslo"] * 1000))
    pq.write_table(twice, folder / "b.parquet")
    with pytest.raises(
        LogError, match=r"b\.parquet, column 'city': expected one column of this name, found 2"
    ):
        cf.score_parquet(model, folder, target, cost=0.4)


def test_places_that_cannot_hold_the_target(model, source, tmp_path):
    (tmp_path / "taken").mkdir()
    for target in (tmp_path / "taken", source / "scores.parquet"):
        with pytest.raises(InputError, match="target: expected the path of a file in a folder"):
            cf.score_parquet(model, source, target, cost=0.4)


def test_an_interrupted_run_leaves_the_older_file(model, source, tmp_path, monkeypatch):
    target = tmp_path / "out" / "scores.parquet"
    target.parent.mkdir()
    target.write_bytes(b"older")
    real, calls = batch_scoring._scores, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(batch_scoring, "_scores", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cf.score_parquet(model, source, target, cost=0.4, rows_per_chunk=100)
    assert [path.name for path in target.parent.iterdir()] == ["scores.parquet"]
    assert target.read_bytes() == b"older"


def test_a_reward_that_is_no_number_is_not_written(study, source, tmp_path):
    class Broken(cf.OR):
        def predict_reward(self, x, scenario, cost):
            return np.where(np.arange(len(x)) == 3, np.nan, 0.0)

    broken = Broken(outcome=LogisticRegression(max_iter=300)).fit(study.log())
    with pytest.raises(LogError, match=r"reward: expected finite rewards .* found nan \(first at row 3\)"):
        cf.score_parquet(broken, source, tmp_path / "scores.parquet", cost=0.4)


def test_long_codes_with_missing_values_are_features_with_every_digit(study, tmp_path):
    """As floats, the two codes would be one category."""
    codes = np.where(study.table["member"] == 1, BIG, BIG + 1)
    table = study.table.assign(code=pd.array(codes, "Int64"))
    log = cf.IncentiveLog.from_frame(
        table,
        treatment="mailed",
        collected="redeemed",
        converted="bought",
        features=["code"],
        categories=["code"],
    )
    model = cf.OR(outcome=LogisticRegression(max_iter=300)).fit(log)
    table.loc[5, "code"] = pd.NA
    table.to_parquet(tmp_path / "in.parquet")
    cf.score_parquet(model, tmp_path / "in.parquet", tmp_path / "out.parquet", cost=0.4)
    # Codes are passed as a log, for bare codes are refused.
    coded = cf.IncentiveLog(
        np.where(np.arange(1000) == 5, 0, codes - BIG + 1)[:, None], log.t, log.c, log.y, encoder=log.encoder
    )
    expected = model.predict_reward(coded, "coupon", 0.4)
    np.testing.assert_allclose(pd.read_parquet(tmp_path / "out.parquet")["reward"], expected, atol=1e-12)
