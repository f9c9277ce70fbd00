from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError, LogError
from cfmtl_lib.estimators.cells.backend import CellBackend
from cfmtl_lib.models import training
from cfmtl_lib.models.config import History
from cfmtl_lib.models.losses import CellNetwork
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork, predict_probability
from cfmtl_lib.models.training import derive_generator
from cfmtl_lib.nuisances.pair_nuisances import columns_on_device
from cfmtl_lib.runtime.registry import key_of

CPU = torch.device("cpu")
SMALL = cf.FitConfig(embedding_k=8, tolerance=1e-3, batch_size=500)
SHORT = cf.FitConfig(embedding_k=8, tolerance=1e-2)


@pytest.fixture(scope="module")
def study():
    return cf.simulated(n_users=80, n_items=60, n_pairs=4000)


def cells(weights=cf.PAPER.joint_weights, propensity_weight=0.5, floor=0.1):
    def additive(outputs, purpose):
        return AdditiveNetwork(
            9, 7, 3, outputs, generator=derive_generator(1, purpose, CPU), dtype=torch.float64
        )

    return CellNetwork(
        additive(5, "strata"),
        additive(1, "propensity"),
        weights=weights,
        propensity_floor=floor,
        propensity_weight=propensity_weight,
    )


def listed_loss(network, user, item, t, c, y, w, eta, floor):
    """The loss as the authors' code lists it, term by term."""
    bce = torch.nn.functional.binary_cross_entropy
    f = torch.softmax(network.strata(user, item).T, dim=1)
    g = torch.clip(torch.sigmoid(network.propensity(user, item)), floor, 1)
    terms = [
        (g * f[:, 0], t * (1 - c) * (1 - y)),
        (g * f[:, 1], t * (1 - c) * y),
        (g * f[:, 2], t * c * (1 - y)),
        (g * (f[:, 4] + f[:, 3]), t * c * y),
        ((1 - g) * (f[:, 4] + f[:, 1]), (1 - t) * (1 - c) * y),
        ((1 - g) * (f[:, 0] + f[:, 2] + f[:, 3]), (1 - t) * (1 - c) * (1 - y)),
    ]
    cross = sum(wk * bce(q + 1e-6, z, reduction="sum") for wk, (q, z) in zip(w, terms, strict=True))
    return cross + eta * ((g - t) ** 2).sum()


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_loss_and_gradients_equal_the_listed_six_terms(eta):
    rng = np.random.default_rng(0)
    user, item = torch.tensor(rng.integers(0, 9, 300)), torch.tensor(rng.integers(0, 7, 300))
    t = rng.integers(0, 2, 300)
    c, y = t * rng.integers(0, 2, 300), rng.integers(0, 2, 300)
    log = cf.IncentiveLog(torch.stack([user, item], 1).numpy(), t, c, y)
    weights = cf.CellWeights(5, 1, 1.5, 4, 3, 2)
    network = cells(weights, eta, floor=0.3)
    t, c, y = (torch.tensor(v, dtype=torch.float64) for v in (t, c, y))
    ours = network.loss(user, item, torch.tensor(log.cell))
    listed = listed_loss(network, user, item, t, c, y, weights.in_cell_order(), eta, 0.3)
    torch.testing.assert_close(ours, listed, atol=1e-9, rtol=1e-12)
    for a, b in zip(
        torch.autograd.grad(ours, list(network.parameters())),
        torch.autograd.grad(listed, list(network.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", [cf.CFMTL, cf.CFMTLv1])
def test_interface(kind, study):
    model = kind(config=SMALL, pretraining_outcome=SHORT) if kind is cf.CFMTLv1 else kind(config=SMALL)
    assert model.fit(study.train) is model
    p = model.predict_strata(study.test.x)
    assert p.shape == (len(study.test), 5)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-9)
    assert (p >= 0).all()
    np.testing.assert_array_equal(
        model.predict_reward(study.test.x, "cash", 0.3), cf.expected_reward(p, "cash", 0.3)
    )
    twin = clone(model)
    assert twin.get_params().keys() == model.get_params().keys() and not hasattr(twin, "network_")
    np.testing.assert_array_equal(twin.fit(study.train).predict_strata(study.test.x), p)
    assert model.histories_["cells"].converged


def test_strata_are_learnt_better_than_their_shares():
    study = cf.simulated(n_users=150, n_items=150, n_pairs=20_000, low_rank=0)
    p = cf.CFMTL(config=SMALL).fit(study.train).predict_strata(study.test.x)
    truth = study.test.strata_probability
    assert np.abs(p - truth).mean() < 0.8 * np.abs(truth.mean(0) - truth).mean()


@pytest.mark.parametrize("frozen", [True, False])
def test_v1_trains_its_first_models_on_unless_frozen(frozen, study):
    model = cf.CFMTLv1(config=SMALL, pretraining_outcome=SHORT, frozen=frozen).fit(study.train)
    outcome = FactorizationNetwork(80, 60, 8, generator=derive_generator(0, "CFMTLv1 outcome", CPU))
    training.fit_probability(
        outcome,
        (*columns_on_device(study.train, CPU), torch.tensor(study.train.y, dtype=torch.float32)),
        SHORT,
        generator=derive_generator(0, "CFMTLv1 outcome batches", CPU),
        label="outcome",
    )
    unchanged = torch.equal(model.network_.strata.user, outcome.user)
    assert unchanged == frozen
    assert set(model.histories_) == {"propensity", "outcome", "cells"}


def test_leaving_a_term_out_changes_the_fit(study):
    weights = cf.CellWeights(5, 1, 1, 5, 0, 5)
    full, without = (
        cf.CFMTL(config=SMALL, weights=w).fit(study.train).predict_strata(study.test.x)
        for w in (cf.PAPER.joint_weights, weights)
    )
    assert np.abs(full - without).max() > 0.05


@pytest.mark.parametrize(
    "change, message",
    [
        ({"weights": cf.CellWeights(-1, 1, 1, 1, 1, 1)}, "weights"),
        ({"weights": cf.CellWeights(0, 0, 0, 0, 0, 0)}, "weights"),
        ({"propensity_floor": 1.0}, "propensity_floor"),
        ({"propensity_weight": -0.5}, "propensity_weight"),
        ({"device": "gpu"}, "device.*'auto'"),
    ],
)
def test_bad_settings_are_refused_before_any_work(change, message, study):
    with pytest.raises(InputError, match=message):
        cf.CFMTL(**change).fit(study.train)


def test_embeddings_of_another_length_are_refused(study):
    with pytest.raises(InputError, match="embedding_k"):
        cf.CFMTLv1(config=SMALL).fit(study.train)


def test_what_the_model_was_not_fitted_on_is_refused(study):
    log = cf.simulated_features(200).log
    with pytest.raises(LogError, match="features"):
        cf.CFMTLv1().pretrain(log)
    model = cf.CFMTL(config=SHORT).fit(study.train)
    with pytest.raises(LogError, match="This model was fitted on pairs"):
        model.predict_strata(log)


def test_propensity_is_recovered_where_treatment_is_randomised():
    study = cf.simulated(n_users=60, n_items=60, n_pairs=3600, overlap=1e6)
    model = cf.CFMTL(config=SMALL).fit(study.train)
    assert (
        abs(predict_probability(model.network_.propensity, study.test.x).mean() - study.train.t.mean()) < 0.03
    )


@dataclass(frozen=True)
class SharesConfig:
    prior: float = 1.0


class Shares(CellBackend):
    config_type = SharesConfig
    x_kind = "features"

    @classmethod
    def takes(cls, log):
        return not log.is_pairs

    @classmethod
    def default_config(cls):
        return SharesConfig()

    def fit(self, log, task, first_stage=None):
        p = np.bincount(log.cell, minlength=6)[[0, 1, 2, 3, 3]] * [1, 1, 1, 0.5, 0.5] + self.config.prior
        model = SimpleNamespace(predict=lambda part, x: np.tile(p / p.sum(), (len(x), 1)))
        return model, {"cells": History([0.0], converged=True)}


CellBackend.backends.pop(key_of(Shares))  # other tests have the library's own


def test_a_further_backend_is_one_class(monkeypatch):
    monkeypatch.setitem(CellBackend.backends, key_of(Shares), Shares)
    log = cf.simulated_features(500).log
    model = cf.CFMTL(config=SharesConfig(prior=2.0)).fit(log)
    p = model.predict_strata(log)
    assert p.shape == (500, 5) and np.abs(p - p[0]).max() == 0 and p[0, 3] == p[0, 4]
    assert cf.CFMTL().fit(log).predict_strata(log).std() > 0  # the default stays the first that takes the log


def test_a_configuration_for_another_kind_of_x_is_refused(study):
    with pytest.raises(InputError, match="expected FitConfig for a log of pairs, found FeatureConfig"):
        cf.CFMTL(config=cf.FeatureConfig()).fit(study.train)
