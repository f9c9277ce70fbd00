"""Scores of Parquet files: the same as in memory, chunk by chunk, whole or not at all."""

import numpy as np
import pandas as pd
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
