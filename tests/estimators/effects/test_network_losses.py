"""Losses and penalties of the neural learners of effects, against plain numpy."""

from decimal import Decimal

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

import cfmtl_lib as cf
from cfmtl_lib.estimators.effects.bnn import TreatmentInputNetwork, linear_discrepancy
from cfmtl_lib.estimators.effects.cfr import squared_mmd
from cfmtl_lib.estimators.effects.dragonnet import DragonNetwork, targeted_losses
from cfmtl_lib.estimators.effects.networks import Batch
from cfmtl_lib.estimators.effects.perfect_match import match_counts
from cfmtl_lib.models.feature_networks import FeatureNetwork


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def entropy(p, target):
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


def tensors(*values):
    return [torch.tensor(np.asarray(value, dtype=np.float64)) for value in values]


class Rows:
    """Some rows, as numpy arrays."""

    def __init__(self, seed=0, n=60):
        rng = np.random.default_rng(seed)
        self.z, self.logits = rng.normal(size=(n, 3)), rng.normal(size=(6, n))
        self.t = (rng.random(n) < 0.3).astype(int)
        self.c = self.t * rng.integers(0, 2, n)
        self.y, self.score = rng.integers(0, 2, n), rng.normal(size=n)

    def factual(self):
        q1, cy, c1, q0 = sigmoid(self.logits[:4])
        treated = entropy(q1, self.y) + entropy(cy, self.c * self.y) + entropy(c1, self.c)
        return self.t * treated + (1 - self.t) * entropy(q0, self.y)

    def loss_of(self, model, network=None, more=()):
        z, logits, t, c, y = tensors(self.z, self.logits, self.t, self.c, self.y)
        batch = Batch(network, z, logits, t, c, y, tuple(tensors(*more)))
        return float(model.training_loss(batch).detach())


@pytest.fixture
def rows():
    return Rows()


def mmd(z, t):
    distance = ((z[:, None] - z[None]) ** 2).sum(axis=2)
    kernel = np.exp(-distance / distance.mean())
    one, zero = t == 1, t == 0
    across = kernel[np.ix_(one, zero)].mean()
    return kernel[np.ix_(one, one)].mean() + kernel[np.ix_(zero, zero)].mean() - 2 * across


def test_mmd_is_that_of_gretton(rows):
    assert float(squared_mmd(*tensors(rows.z, rows.t))) == pytest.approx(mmd(rows.z, rows.t), abs=1e-9)
    twice = np.concatenate([rows.z, rows.z])
    arms = np.repeat([0, 1], len(rows.z))
    assert float(squared_mmd(*tensors(twice, arms))) == pytest.approx(0, abs=1e-9)
    assert float(squared_mmd(*tensors(twice + 3.0 * arms[:, None], arms))) > 0.3
    assert float(squared_mmd(*tensors(rows.z, np.ones(60)))) == 0.0


def test_discrepancy_is_a_spectral_norm(rows):
    factual = np.column_stack([rows.z, rows.t])
    counterfactual = np.column_stack([rows.z, 1 - rows.t])
    difference = (factual.T @ factual - counterfactual.T @ counterfactual) / len(rows.z)
    expected = np.abs(np.linalg.eigvalsh(difference)).max()
    assert float(linear_discrepancy(*tensors(rows.z, rows.t))) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_matches_are_the_nearest_of_the_other_arm(seed):
    rows = Rows(seed)
    expected = np.zeros(60)
    for row in range(60):
        others = np.flatnonzero(rows.t != rows.t[row])
        expected[others[np.abs(rows.score[others] - rows.score[row]).argmin()]] += 1
    found = match_counts(*tensors(rows.score, rows.t)).numpy()
    np.testing.assert_array_equal(found, expected)
    assert found.sum() == 60
    assert not match_counts(*tensors(rows.score, np.ones(60))).any()


def test_rows_of_equal_scores_share_their_matches():
    t = np.repeat([0, 1, 0], [6, 4, 6])
    found = match_counts(*tensors(np.zeros(16), t)).numpy()
    np.testing.assert_array_equal(found[t == 1], [3, 3, 3, 3])  # twelve rows ask four
    assert found.sum() == 16 and set(found[t == 0]) == {0, 1}
    score = np.random.default_rng(0).integers(0, 3, 400) / 10.0  # a category: three scores
    t = np.random.default_rng(1).integers(0, 2, 400)
    found = match_counts(*tensors(score, t)).numpy()
    for level in np.unique(score):
        inside = score == level
        assert found[inside & (t == 1)].sum() == (inside & (t == 0)).sum()
        assert found[inside].max() <= 6


def test_targeted_regularisation_solves_the_equation_of_the_average_effect(rows):
    """At the best perturbation, the plug-in mean of the perturbed outcomes is the doubly robust estimate."""
    g = sigmoid(rows.score)
    q1, used, collected, q0 = sigmoid(rows.logits[:4])
    t, c, y = rows.t, rows.c, rows.y
    toward, away = t / g, (1 - t) / (1 - g)
    eps = np.array([0.1, -0.2, 0.3])
    expected = (y - t * q1 - (1 - t) * q0 - eps[0] * (toward - away)) ** 2
    expected = expected + t * (c * y - used - eps[1] / g) ** 2 + t * (c - collected - eps[2] / g) ** 2
    found = targeted_losses(*tensors(rows.logits[:4], g, eps, t, c, y)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)

    def total(epsilon):
        return targeted_losses(*tensors(rows.logits[:4], g), epsilon, *tensors(t, c, y)).sum()

    zero = torch.zeros(3, dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(total, zero)
    best = -torch.linalg.solve(torch.autograd.functional.hessian(total, zero), slope).numpy()
    one, without = q1 + best[0] / g, q0 - best[0] / (1 - g)
    aipw = one - without + toward * (y - one) - away * (y - without)
    assert (one - without).mean() == pytest.approx(aipw.mean(), abs=1e-9)


def test_losses_of_the_learners_are_those_of_their_formulas(rows):
    t, c, y, factual = rows.t, rows.c, rows.y, rows.factual()
    u = t.mean()
    weight = t / (2 * u) + (1 - t) / (2 * (1 - u))
    assert rows.loss_of(cf.TARNet()) == pytest.approx((weight * factual).mean(), abs=1e-9)
    with_penalty = (weight * factual).mean() + 0.7 * mmd(rows.z, t)
    assert rows.loss_of(cf.CFR(penalty=0.7)) == pytest.approx(with_penalty, abs=1e-9)
    apart = float(linear_discrepancy(*tensors(rows.z, t)))
    assert rows.loss_of(cf.BNN(penalty=0.7)) == pytest.approx(factual.mean() + 0.7 * apart, abs=1e-9)
    counts = 1 + match_counts(*tensors(rows.score, t)).numpy()
    matched = (counts * factual).sum() / 120
    assert rows.loss_of(cf.PerfectMatch(), more=(rows.score,)) == pytest.approx(matched, abs=1e-9)
    q1, used, collected, q0, pi, _ = sigmoid(rows.logits)
    entire = entropy(pi, t) + entropy(pi * q1, t * y) + entropy((1 - pi) * q0, (1 - t) * y)
    entire = entire + entropy(pi * used, c * y) + entropy(pi * collected, c)
    pseudo = rows.logits[5]
    crossed = t * entropy(sigmoid(rows.logits[3] + pseudo), y)
    crossed = crossed + (1 - t) * entropy(sigmoid(rows.logits[0] - pseudo), y)
    expected = (entire + 0.5 * crossed).mean()
    assert rows.loss_of(cf.DESCN(cross_weight=0.5)) == pytest.approx(expected, abs=1e-9)


def network_of(kind, n_heads):
    generator = torch.Generator().manual_seed(1)
    config = cf.FeatureConfig(hidden=(4,))
    network = kind(
        FeatureNetwork(2, (), 3, config=config, generator=generator), n_heads, 5, generator=generator
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network


def test_dragonnet_adds_propensity_and_targeted_regularisation(rows):
    network = network_of(DragonNetwork, 4).double()
    g_logit = rows.z @ network.propensity.detach().numpy()[:3] + network.propensity.detach().numpy()[3]
    g = sigmoid(g_logit).clip(0.01, 0.99)
    targeted = targeted_losses(
        *tensors(rows.logits[:4], g, network.epsilon.detach().numpy(), rows.t, rows.c, rows.y)
    ).numpy()
    expected = rows.factual() + 0.4 * entropy(sigmoid(g_logit), rows.t) + 0.6 * targeted
    model = cf.DragonNet(propensity_weight=0.4, targeted_weight=0.6)
    assert rows.loss_of(model, network) == pytest.approx(expected.mean(), abs=1e-7)


def test_heads_of_bnn_take_the_treatment_as_an_input():
    network = network_of(TreatmentInputNetwork, 3)
    numbers, codes = torch.randn(7, 2, generator=torch.Generator().manual_seed(2)), torch.zeros(7, 0).long()
    z, logits = network.outputs(numbers, codes)
    for arm, heads in ((1.0, [0, 1, 2]), (0.0, [3])):
        expected = network.heads(torch.cat([z, torch.full((7, 1), arm)], dim=1))[: len(heads)]
        torch.testing.assert_close(logits[heads], expected)
    assert (logits[0] - logits[3]).abs().min() > 1e-4


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (cf.CFR, "penalty"),
        (cf.BNN, "penalty"),
        (cf.DragonNet, "propensity_weight"),
        (cf.DragonNet, "targeted_weight"),
        (cf.DESCN, "cross_weight"),
        (cf.ESCM2, "risk_weight"),
        (cf.ESCM2, "collect_floor"),
        (cf.MultiIPW, "collect_floor"),
    ],
)
def test_a_weight_may_be_any_number_and_acts(kind, name):
    """The fit with the weight as a ``Decimal`` is that with a float, and not that with another weight."""
    study = cf.simulated_features(200, seed=2)
    fit = cf.FitConfig(max_epochs=3, patience=4, learning_rate=0.01)
    quick = cf.FeatureConfig(hidden=(4,), n_networks=1, fit=fit)
    with pytest.warns(ConvergenceWarning):
        cates = [
            kind(config=quick, width=3, **{name: weight}).fit(study.log).predict_cate(study.log)
            for weight in (Decimal("0.5"), 0.5, 1.0)
        ]
    np.testing.assert_array_equal(cates[0], cates[1])
    assert (cates[1] != cates[2]).any()
