"""Logs in Parquet files: checked and fitted like logs in memory, a bounded number of rows at a time."""

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, LogError, UnknownNameError
from cfmtl_lib.models.training import derive_generator
from cfmtl_lib.nuisances.pair_nuisances import training_columns

CPU = torch.device("cpu")
SMALL = cf.FitConfig(embedding_k=4, tolerance=1e-2, batch_size=200)
COLUMNS = {"treatment": "t", "collected": "c", "converted": "y"}


def frame_of(log):
    return pd.DataFrame({"user": log.x[:, 0], "item": log.x[:, 1], "t": log.t, "c": log.c, "y": log.y})


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=120, n_items=100, n_pairs=6000, seed=1)


def written(folder, frame, n_files=3, row_group=400):
    for k, part in enumerate(np.array_split(np.arange(len(frame)), n_files)):
        table = pa.Table.from_pandas(frame.iloc[part], preserve_index=False)
        pq.write_table(table, folder / f"part-{k}.parquet", row_group_size=row_group)
    return folder


@pytest.fixture
def shards(tmp_path, study):
    return written(tmp_path, frame_of(study.train))


def opened(path, study, **options):
    n_users, n_items = study.train.pair_space
    return cf.ParquetLog(path, **COLUMNS, n_users=n_users, n_items=n_items, **options)


def test_it_holds_the_rows_of_its_files(shards, study):
    log = opened(shards, study, rows_in_memory=1000)
    assert len(log) == len(study.train) and log.n_rows(1) == study.train.t.sum()
    assert log.pair_space == study.train.pair_space
    groups = list(log.row_groups())
    assert len(groups) > 8
    for name in ("x", "t", "c", "y", "cell"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(rows, name) for rows in groups]), getattr(study.train, name)
        )
    one_file = cf.ParquetLog(shards / "part-0.parquet", **COLUMNS)
    assert len(one_file) < len(log)


@pytest.mark.parametrize("arm", [None, 0, 1])
@pytest.mark.parametrize("rows_in_memory", [1, 1000, 10**6])
def test_an_epoch_has_every_row_once_in_whole_batches_and_another_order(shards, study, arm, rows_in_memory):
    log = opened(shards, study, rows_in_memory=rows_in_memory)
    keep = np.ones(len(study.train), bool) if arm is None else study.train.t == arm
    expected = sorted(zip(*study.train.x[keep].T.tolist(), study.train.cell[keep].tolist(), strict=True))
    source = log.source(lambda rows: rows.cell, CPU, arm=arm, dtype=torch.int8)
    assert len(source) == keep.sum()
    generator = derive_generator(0, "test", CPU)
    orders = []
    for _ in range(2):
        chunks = list(source.epoch(64, True, generator))
        assert all(len(chunk[0]) % 64 == 0 for chunk in chunks[:-1])
        rows = list(zip(*(torch.cat(column).tolist() for column in zip(*chunks, strict=True)), strict=True))
        assert sorted(rows) == expected
        orders.append(rows)
    assert orders[0] != orders[1]
    whole = sum(len(chunk[0]) for chunk in source.epoch(64, False, generator))
    assert whole == keep.sum() // 64 * 64


def test_no_more_rows_are_read_at_once_than_asked_for(shards, study, monkeypatch):
    log = opened(shards, study, rows_in_memory=1000)
    source = log.source(lambda rows: rows.y, CPU)
    largest = max(len(chunk[0]) for chunk in source.epoch(64, True, derive_generator(0, "test", CPU)))
    assert 400 < largest <= 1000


@pytest.mark.parametrize("name", ["Naive", "OR", "CF-OR", "CF-IPS", "CF-DR", "CF-MTL", "CF-MTL-v1"])
def test_estimators_learn_from_files_what_they_learn_from_memory(name, shards, study):
    """Other batches, the same rows: predictions agree as those of two seeds do."""

    def estimator(seed):
        known = {
            "Naive": cf.Naive,
            "OR": cf.OR,
            "CF-OR": cf.CFOR,
            "CF-IPS": cf.CFIPS,
            "CF-DR": cf.CFDR,
            "CF-MTL": cf.CFMTL,
            "CF-MTL-v1": cf.CFMTLv1,
        }
        more = {"pretraining_propensity": SMALL, "pretraining_outcome": SMALL} if name == "CF-MTL-v1" else {}
        return known[name](config=SMALL, seed=seed, **more)

    x = study.test.x
    in_memory = [estimator(seed).fit(study.train).predict_reward(x, "coupon", 0.4) for seed in (0, 1)]
    model = estimator(0).fit(opened(shards, study))
    from_files = model.predict_reward(x, "coupon", 0.4)
    between_seeds = np.abs(in_memory[0] - in_memory[1]).mean()
    assert np.corrcoef(from_files, in_memory[0])[0, 1] > 0.5
    assert np.abs(from_files - in_memory[0]).mean() < 1.2 * between_seeds
    again = estimator(0).fit(opened(shards, study)).predict_reward(x, "coupon", 0.4)
    np.testing.assert_array_equal(from_files, again)


def test_weighted_targets_are_those_of_a_log_in_memory(shards, study):
    """The same propensity and regression networks: targets must be equal row by row."""
    log = opened(shards, study)
    seen = {}

    class Kept(cf.PairNuisances):
        def _made_or_kept(self, name, target, arm):
            rows = [self.log] if self.log is study.train else list(self.log.row_groups())
            seen.setdefault(name, []).append(np.concatenate([target(part) for part in rows]))
            return shared[name]

    plain = cf.PairNuisances(study.train, config=SMALL, propensity_clip=(0.1, 0.9))
    name = "converted_untreated"
    plain.moment("DR", name)
    plain.moment("IPS", name)
    shared = {fit: (plain._networks[fit], plain.histories[fit]) for fit in plain._networks}
    for source in (study.train, log):
        of_source = Kept(source, config=SMALL, propensity_clip=(0.1, 0.9))
        of_source.moment("DR", name)
        of_source.moment("IPS", name)
    assert {"DR converted_untreated", "IPS converted_untreated"} <= seen.keys()
    for in_memory, in_files in seen.values():
        np.testing.assert_allclose(in_memory, in_files, atol=1e-12)


def test_columns_in_memory_and_in_files_are_the_same_kind_of_thing(shards, study):
    for log in (study.train, opened(shards, study)):
        columns = training_columns(log, lambda rows: rows.cell, CPU, torch.int8)
        first = (
            columns
            if isinstance(columns, tuple)
            else next(columns.epoch(64, True, derive_generator(0, "test", CPU)))
        )
        assert [column.dtype for column in first] == [torch.int64, torch.int64, torch.int8]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"t": 2}, r"part-1\.parquet, t: expected 0 or 1, found 2 \(first at row 7\)"),
        ({"y": None}, r"part-1\.parquet, y: expected a value in each row, found none \(first at row 7\)"),
        ({"c": 1, "t": 0}, r"part-1\.parquet, c: expected 0 wherever t is 0, found 1 \(first at row 7\)"),
        ({"user": -1}, r"part-1\.parquet, x: expected ids >= 0.*row 7"),
        ({"item": 0.5}, r"part-0\.parquet, item: expected whole numbers, found dtype float64"),
        ({"user": 2**40}, r"part-1\.parquet, user: expected ids below 2\^31"),
    ],
)
def test_a_bad_row_is_named_with_its_file(change, message, tmp_path, study):
    frame = frame_of(study.train)
    row = len(np.array_split(np.arange(len(frame)), 3)[0]) + 7
    for name, value in change.items():
        frame[name] = frame[name].astype("float64" if isinstance(value, float) else "Int64")
        frame.loc[row, name] = value
    with pytest.raises(LogError, match=message):
        cf.ParquetLog(written(tmp_path, frame), **COLUMNS)


def test_what_is_not_there_is_said(tmp_path, study):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        cf.ParquetLog(tmp_path / "nowhere")
    shards = written(tmp_path, frame_of(study.train))
    with pytest.raises(UnknownNameError, match=r"column: expected a column of .* found 'treatment'"):
        cf.ParquetLog(shards)
    with pytest.raises(InputError, match="rows_in_memory"):
        cf.ParquetLog(shards, **COLUMNS, rows_in_memory=0)
    with pytest.raises(LogError, match="n_users: expected at least"):
        cf.ParquetLog(shards, **COLUMNS, n_users=3)
    frame = frame_of(study.train)
    (tmp_path / "one-arm").mkdir()
    with pytest.raises(LogError, match="no row with t = 0"):
        cf.ParquetLog(written(tmp_path / "one-arm", frame[frame.t == 1]), **COLUMNS)


def test_what_files_cannot_do_is_refused(shards, study):
    log = opened(shards, study)
    with pytest.raises(InputError, match="validation_share: expected 0 for a log that is read from files"):
        cf.CFMTL(config=cf.FitConfig(validation_share=0.1)).fit(log)
    with pytest.raises(InputError, match="outcome: expected none with a log in files"):
        cf.CFOR(outcome=LogisticRegression()).fit(log)
    with pytest.raises(InputError, match="leave"):
        cf.IPS(config=cf.FitConfig(loss="cross_entropy")).fit(log)
    with pytest.raises(LogError, match="y: expected none"):
        cf.CFMTL().fit(log, study.train.y)
    with pytest.raises(InputError, match="log: expected one in memory"):
        cf.PairNuisances(log, config=SMALL, propensity_clip=(0.1, 0.9)).propensity()


def test_booleans_are_outcomes_too(tmp_path, study):
    frame = frame_of(study.train).astype({"t": bool, "c": bool, "y": bool})
    assert len(cf.ParquetLog(written(tmp_path, frame), **COLUMNS)) == len(study.train)


def two_arms(n=1000):
    """Ids and arms in no particular order; row k can be told by its ids."""
    k = np.arange(n)
    return pd.DataFrame({"user": k % 40, "item": k // 40, "t": k % 2, "c": 0, "y": k % 3 == 0}).astype(int)


@pytest.mark.parametrize("row", [0, 89, 90, 91, 250, 299])
def test_a_bad_row_is_named_by_its_place_in_the_file_not_in_the_row_group(row, tmp_path):
    frame = two_arms()
    frame.loc[300 + row, "y"] = 7
    for k in range(2):
        frame[300 * k : 300 * (k + 1)].to_parquet(tmp_path / f"{k}.parquet", row_group_size=90, index=False)
    with pytest.raises(LogError, match=rf"1\.parquet, y: expected 0 or 1, found 7 \(first at row {row}\)"):
        cf.ParquetLog(tmp_path, **COLUMNS)


def test_columns_go_by_name_in_each_file(tmp_path):
    frame = two_arms()
    frame[:500].to_parquet(tmp_path / "a.parquet")
    frame[500:][frame.columns[::-1]].astype({"user": "uint64", "item": "int8", "y": bool}).to_parquet(
        tmp_path / "b.parquet"
    )
    (tmp_path / "_SUCCESS").write_text("")
    for source in (tmp_path, str(tmp_path / "*.parquet")):
        rows = list(cf.ParquetLog(source, **COLUMNS).row_groups())
        np.testing.assert_array_equal(np.concatenate([r.x for r in rows]), frame[["user", "item"]])
        np.testing.assert_array_equal(np.concatenate([r.y for r in rows]), frame["y"])


ID_TYPES = {
    "a dictionary": (lambda ids: pa.array(ids).dictionary_encode(), None),
    "decimals": (lambda ids: pa.array(ids).cast(pa.decimal128(20, 0)), None),
    "uint64": (lambda ids: pa.array(ids, pa.uint64()), None),
    "floats": (lambda ids: pa.array(ids, pa.float64()), "user: expected whole numbers, found dtype float64"),
    "texts": (
        lambda ids: pa.array([str(i) for i in ids]),
        "user: expected whole numbers, found dtype string",
    ),
    "missing": (lambda ids: pa.array([*ids[:-1], None]), r"user: expected a value in each row.*row 999"),
    "large": (
        lambda ids: pa.array([*ids[:-1], 2**64 - 1], pa.uint64()),
        r"ids below 2\^31, found 1844674.*row 999",
    ),
    "negative": (lambda ids: pa.array([*ids[:-1], -1]), r"x: expected ids >= 0, found .*row 999"),
}


@pytest.mark.parametrize("kind", ID_TYPES)
def test_types_of_ids(kind, tmp_path):
    change, message = ID_TYPES[kind]
    frame = two_arms()
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    rows = rows.set_column(0, "user", change(frame["user"].tolist()))
    pq.write_table(rows, tmp_path / "a.parquet", row_group_size=300)
    if message is None:
        (users, *_) = (
            np.concatenate(c) for c in zip(*cf.ParquetLog(tmp_path, **COLUMNS).row_groups(), strict=True)
        )
        np.testing.assert_array_equal(users[:, 0], frame["user"])
    else:
        with pytest.raises(LogError, match=message):
            cf.ParquetLog(tmp_path, **COLUMNS)


def test_a_file_that_lacks_a_column_or_is_none_is_named(tmp_path):
    frame = two_arms()
    frame[:500].to_parquet(tmp_path / "a.parquet")
    frame[500:].drop(columns="item").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(UnknownNameError, match=r"a column of b\.parquet: .* found 'item'"):
        cf.ParquetLog(tmp_path, **COLUMNS)
    (tmp_path / "b.parquet").write_bytes(b"")
    with pytest.raises(LogError, match=r"b\.parquet: expected a Parquet file, found an empty file"):
        cf.ParquetLog(tmp_path, **COLUMNS)
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-40])
    with pytest.raises(LogError, match=r"b\.parquet: expected a complete Parquet file"):
        cf.ParquetLog(tmp_path, **COLUMNS)
    with pytest.raises(FileNotFoundError, match="no file"):
        cf.ParquetLog(str(tmp_path / "*.pq"), **COLUMNS)


@pytest.mark.parametrize("change", ["other rows", "removed"])
def test_files_that_change_after_they_were_checked_are_refused(change, tmp_path):
    frame = two_arms()
    frame.to_parquet(tmp_path / "a.parquet")
    log = cf.ParquetLog(tmp_path, **COLUMNS)
    again = pickle.loads(pickle.dumps(log))
    assert sum(len(rows.t) for rows in again.row_groups()) == 1000
    if change == "removed":
        (tmp_path / "a.parquet").unlink()
    else:
        frame.assign(user=frame["user"] + 5)[:900].to_parquet(tmp_path / "a.parquet")
    for opened_before in (log, again):
        with pytest.raises(LogError, match=r"a\.parquet: expected the file that was checked"):
            list(opened_before.row_groups())


def test_one_column_cannot_have_two_roles(shards):
    with pytest.raises(InputError, match=r"treatment, converted: expected a column of its own.*'t' for both"):
        cf.ParquetLog(shards, treatment="t", collected="c", converted="t")
    with pytest.raises(InputError, match="user: expected the name of a column, found 3"):
        cf.ParquetLog(shards, user=3)
    for count in (0, True, 2.5, "9"):
        with pytest.raises(InputError, match="rows_in_memory: expected a whole number >= 1"):
            cf.ParquetLog(shards, **COLUMNS, rows_in_memory=count)
