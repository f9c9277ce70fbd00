"""Entire-space models: recovery where buying needs collecting, rewards from the heads, and refusals."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.entire_space.base import EntireSpaceNetwork
from cfmtl_lib.estimators.head_networks import HeadModel
from cfmtl_lib.estimators.network_fits import SHORT_FIT
from cfmtl_lib.strata import CELLS

QUICK = cf.FeatureConfig(
    hidden=(16,), n_networks=1, fit=replace(SHORT_FIT, learning_rate=0.01, batch_size=250)
)
PAIRS = replace(SHORT_FIT, embedding_k=4, batch_size=500, learning_rate=0.02)
MODELS = {
    "ESMM": cf.ESMM,
    "MMoE": cf.MMoE,
    "Multi-IPW": cf.MultiIPW,
    "ESCM2 dr": cf.ESCM2,
    "ESCM2 ipw": lambda **options: cf.ESCM2(risk="ipw", **options),
}


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.fixture(scope="module")
def world():
    """Nobody buys without collecting, and those who collect are not those who would buy."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(4000, 2))
    p, b = sigmoid(1.5 * x[:, 0] - 0.5), sigmoid(1.5 * x[:, 1] - x[:, 0])
    t = (rng.random(len(x)) < sigmoid(x[:, 1])).astype(int)
    c = t * (rng.random(len(x)) < p)
    y = c * (rng.random(len(x)) < b)
    return cf.IncentiveLog(x, t, c, y), p, b


@pytest.mark.parametrize("name", MODELS)
def test_conversions_that_need_collecting_are_recovered(name, world):
    log, p, b = world
    model = MODELS[name](config=QUICK, width=8, seed=1).fit(log)
    cells = dict(zip(CELLS, model.predict_cells(log).T, strict=True))
    assert np.corrcoef(cells[1, 1, 1], p * b)[0, 1] > 0.94
    assert np.corrcoef(cells[1, 1, 0], p * (1 - b))[0, 1] > 0.9
    # The arms differ: the mean over all rows is no mean of the treated.
    used, se = log.c * log.y, np.sqrt((p * b * (1 - p * b)).mean() / log.t.sum())
    assert abs(cells[1, 1, 1].mean() - (p * b).mean()) < 3 * se
    assert abs(used[log.t == 1].mean() - (p * b).mean()) > 3 * se
    assert max(cells[1, 0, 1].mean(), cells[0, 0, 1].mean()) < 0.01


def test_rewards_follow_from_the_heads(world):
    log = world[0]
    model = cf.ESMM(config=QUICK, width=4).fit(log)
    cells = model.predict_cells(log)
    np.testing.assert_allclose(cells[:, :4].sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(cells[:, 4:].sum(axis=1), 1, atol=1e-12)
    of = dict(zip(CELLS, cells.T, strict=True))
    uplift = of[1, 0, 1] + of[1, 1, 1] - of[0, 0, 1]
    np.testing.assert_allclose(model.predict_cate(log), uplift, atol=1e-12)
    coupon, cash = (model.predict_reward(log, scenario, 0.3) for scenario in cf.SCENARIOS)
    np.testing.assert_allclose(coupon, 1.3 * uplift - 0.3 * of[1, 1, 1], atol=1e-12)
    np.testing.assert_allclose(cash, 1.3 * uplift - 0.3 * (of[1, 1, 0] + of[1, 1, 1]), atol=1e-12)
    observed = np.log(cells[np.arange(len(log)), log.cell].clip(1e-4))
    assert model.score(log) == pytest.approx(observed.mean(), abs=1e-12)


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=60, n_items=50, n_pairs=3000, seed=2)


def test_pairs_and_files_of_pairs(study, tmp_path):
    """The same rows in files and in memory are learnt from alike; a policy beats treating at random."""
    log = study.train
    table = {"user": log.x[:, 0], "item": log.x[:, 1], "t": log.t, "c": log.c, "y": log.y}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    names = {"treatment": "t", "collected": "c", "converted": "y"}
    in_files = cf.ParquetLog(tmp_path / "log.parquet", **names, n_users=60, n_items=50)
    model = cf.ESMM(config=PAIRS, width=4).fit(log)
    reward = model.predict_reward(study.test.x, "coupon", 0.4)
    truth = cf.expected_reward(study.test.strata_probability, "coupon", 0.4)
    assert np.corrcoef(reward, truth)[0, 1] > 0.2
    with pytest.raises(InputError, match=r"validation_share: expected 0 for a log that is read from files"):
        cf.ESMM(config=PAIRS, width=4).fit(in_files)
    from_files = cf.ESMM(config=replace(PAIRS, validation_share=0.0), width=4).fit(in_files)
    found = from_files.predict_reward(study.test.x, "coupon", 0.4)
    assert np.corrcoef(found, truth)[0, 1] > 0.2


def test_fits_are_the_same_for_a_seed(study):
    def fitted(seed):
        return cf.MultiIPW(config=PAIRS, width=4, seed=seed).fit(study.train).predict_cells(study.test.x)

    np.testing.assert_array_equal(fitted(3), fitted(3))
    assert np.abs(fitted(3) - fitted(4)).max() > 1e-3


@pytest.mark.parametrize(
    "model, message",
    [
        (cf.ESMM(config=QUICK), "config: expected FitConfig for a log of pairs, found FeatureConfig"),
        (cf.ESMM(width=0), "width"),
        (cf.MMoE(n_experts=0), "n_experts"),
        (cf.MultiIPW(collect_floor=0.0), "collect_floor"),
        (cf.ESCM2(risk="both"), "risk"),
        (cf.ESCM2(risk_weight=-1.0), "risk_weight"),
        (cf.ESCM2(seed=-1), "seed"),
    ],
)
def test_bad_settings_are_refused(model, message, study):
    with pytest.raises(InputError, match=message):
        model.fit(study.train)


def test_parts_that_do_not_fit_together_are_refused(study, world):
    pairs = cf.ESMM(config=PAIRS, width=4).fit(study.train).network_
    features = cf.ESMM(config=QUICK, width=4).fit(world[0]).network_
    device = torch.device("cpu")
    for parts in (
        {"networks": tuple(features.networks), "scaler": None},
        {"networks": tuple(pairs.networks), "scaler": features.scaler},
        {"networks": (), "scaler": None},
        {"networks": (torch.nn.Linear(2, 4),), "scaler": None},
    ):
        with pytest.raises(InputError):
            HeadModel.from_parts(parts, device)
    parts = pairs.networks[0].to_parts()
    with pytest.raises(InputError, match="scores for 5 heads"):
        EntireSpaceNetwork.from_parts({**parts, "sizes": {**parts["sizes"], "n_heads": 5}}, device)
    with pytest.raises(InputError, match="parameter hidden"):
        EntireSpaceNetwork.from_parts({**parts, "sizes": {**parts["sizes"], "width": 5}}, device)
