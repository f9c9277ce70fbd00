"""Neural learners of effects: recovery under confounding, rewards from the heads, and refusals."""

from dataclasses import replace

import numpy as np
import pytest

import cfmtl_lib as cf
from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators import network_fits
from cfmtl_lib.estimators.network_fits import SHORT_FIT

FIT = replace(SHORT_FIT, batch_size=250, learning_rate_decay=0.85, patience=4, max_epochs=60)
QUICK = cf.FeatureConfig(hidden=(16,), n_networks=1, fit=FIT)
MODELS = (cf.TARNet, cf.CFR, cf.BNN, cf.PerfectMatch, cf.DragonNet, cf.DESCN)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


class World:
    """Smooth effects, and a treatment that goes to those who convert anyway."""

    def __init__(self, n=5000, seed=4):
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(n, 2))
        self.e = sigmoid(1.5 * self.x[:, 0])
        self.mu0, self.mu1 = (sigmoid(1.5 * self.x[:, 0] + k * (1 + 1.2 * self.x[:, 1])) for k in (-0.5, 0.5))
        self.collect = sigmoid(self.x[:, 1])
        t = (rng.random(n) < self.e).astype(int)
        c = t * (rng.random(n) < self.collect)
        y = (rng.random(n) < np.where(t, self.mu1, self.mu0)).astype(int)
        self.log = cf.IncentiveLog(self.x, t, c, y)
        # Variance of the doubly robust score at the truth, which no regular estimator is below.
        bound = self.mu1 * (1 - self.mu1) / self.e + self.mu0 * (1 - self.mu0) / (1 - self.e)
        self.standard_error = np.sqrt((bound + (self.mu1 - self.mu0).var()).mean() / n)


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_effects_are_recovered_under_confounding(kind, world):
    model = kind(config=QUICK, width=8, seed=1).fit(world.log)
    truth, found = world.mu1 - world.mu0, model.predict_cate(world.x)
    naive = world.log.y[world.log.t == 1].mean() - world.log.y[world.log.t == 0].mean()
    assert abs(naive - truth.mean()) > 10 * world.standard_error
    assert abs(found.mean() - truth.mean()) < 3 * world.standard_error
    assert np.corrcoef(found, truth)[0, 1] > 0.85
    assert ((found - truth) ** 2).mean() < 0.5 * truth.var()
    paid = (model.predict_reward(world.x, "cash", 0.0) - model.predict_reward(world.x, "cash", 1.0)) + found
    assert np.corrcoef(paid, world.collect)[0, 1] > 0.9


def test_rewards_and_scores_follow_from_the_heads(world):
    model = cf.TARNet(config=QUICK, width=4).fit(world.log)
    mu1, used, collected, mu0 = model.network_.predict(world.x).T[:4]
    np.testing.assert_allclose(model.predict_cate(world.log), mu1 - mu0, atol=1e-12)
    coupon, cash = (model.predict_reward(world.x, scenario, 0.3) for scenario in cf.SCENARIOS)
    np.testing.assert_allclose(coupon, 1.3 * (mu1 - mu0) - 0.3 * used, atol=1e-12)
    np.testing.assert_allclose(cash, 1.3 * (mu1 - mu0) - 0.3 * collected, atol=1e-12)
    mean = np.where(world.log.t, mu1, mu0)
    expected = np.log(np.where(world.log.y, mean, 1 - mean).clip(1e-4)).mean()
    assert model.score(world.log) == pytest.approx(expected, abs=1e-12)


def test_a_penalty_brings_the_representations_together(world):
    """What CFR pays for: arms nearer in the representation, at a worse fit."""
    from cfmtl_lib.estimators.effects.cfr import squared_mmd
    from cfmtl_lib.models.feature_networks import feature_columns

    part = world.log.take(np.arange(1500))

    def apart(penalty):
        model = cf.CFR(penalty=penalty, config=QUICK, width=4).fit(part)
        columns = feature_columns(model.network_.scaler, part.x, model.network_.networks[0].out.device)
        z = model.network_.networks[0].outputs(*columns)[0].detach()
        return float(squared_mmd(z, z.new_tensor(part.t.tolist()))), model.score(part)

    (far, fit), (near, worse) = apart(0.0), apart(10.0)
    assert near < 0.5 * far and worse < fit


def test_pairs_reach_the_networks_as_twelve_numbers(monkeypatch):
    study = cf.simulated(n_users=60, n_items=50, n_pairs=3000, seed=2)
    model = cf.TARNet(config=QUICK, width=4, seed=3).fit(study.train)
    assert model.network_.scaler.n_numbers == 12
    again = cf.TARNet(config=QUICK, width=4, seed=3).fit(study.train)
    reward = model.predict_reward(study.test.x, "coupon", 0.4)
    np.testing.assert_array_equal(again.predict_reward(study.test.x, "coupon", 0.4), reward)
    truth = cf.expected_reward(study.test.strata_probability, "coupon", 0.4)
    assert np.corrcoef(reward, truth)[0, 1] > 0.2
    # From many rows on, one network and a few passes.
    monkeypatch.setattr(network_fits, "MANY_ROWS", 100)
    monkeypatch.setattr(network_fits, "ON_MANY_ROWS", QUICK)
    assert len(cf.TARNet(width=4).fit(study.train).network_.networks) == 1


@pytest.mark.parametrize(
    "model, message",
    [
        (cf.TARNet(config=SHORT_FIT), "config: expected a FeatureConfig, found"),
        (cf.TARNet(width=0), "width"),
        (cf.CFR(penalty=-1.0), "penalty"),
        (cf.BNN(penalty=float("nan")), "penalty"),
        (cf.DragonNet(propensity_weight=-1.0), "propensity_weight"),
        (cf.DragonNet(targeted_weight=-1.0), "targeted_weight"),
        (cf.DESCN(cross_weight="1"), "cross_weight"),
        (cf.PerfectMatch(seed=-1), "seed"),
    ],
)
def test_bad_settings_are_refused(model, message, world):
    with pytest.raises(InputError, match=message):
        model.fit(world.log)
