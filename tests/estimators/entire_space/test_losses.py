"""Losses of the entire-space models, against plain numpy."""

import numpy as np
import pytest
import torch

import cfmtl_lib as cf
from cfmtl_lib.estimators.head_networks import HeadNetwork, PairTrunk

FLOOR = 0.2


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def entropy(p, target):
    return -(target * np.log(p) + (1 - target) * np.log(1 - p))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    n = 200
    logits, t = rng.normal(size=(6, n)), rng.integers(0, 2, n)
    c = t * rng.integers(0, 2, n)
    return logits, t, c, rng.integers(0, 2, n)


def loss_of(model, rows, requires_grad=False):
    logits, *outcomes = (torch.tensor(np.asarray(values, dtype=np.float64)) for values in rows)
    logits.requires_grad_(requires_grad)
    return model.loss(logits, *outcomes), logits


def parts_of(rows):
    logits, t, c, y = rows
    p, b1, b2, b0 = sigmoid(logits[:4])
    return (p, b1, b2, b0), t, c, y


def esmm(rows):
    (p, b1, b2, b0), t, c, y = parts_of(rows)
    treated = entropy(p, c) + entropy(p * b1, c * y) + entropy((1 - p) * b2, (1 - c) * y)
    return t * treated + (1 - t) * entropy(b0, y)


def weighted(rows, with_it, without_it):
    (p, b1, b2, b0), t, c, y = parts_of(rows)
    treated = entropy(p, c) + with_it * entropy(b1, y) + without_it * entropy(b2, y)
    return t * treated + (1 - t) * entropy(b0, y)


def risk(rows, kind):
    (p, b1, b2, _), t, c, y = parts_of(rows)
    total = 0.0
    for happened, probability, b, head in ((c, p, b1, rows[0][4]), (1 - c, 1 - p, b2, rows[0][5])):
        weight, error = happened / np.maximum(probability, FLOOR), entropy(b, y)
        guess = np.log1p(np.exp(head))
        doubly_robust = guess + weight * (error - guess) + weight * (error - guess) ** 2
        total = total + (weight * error if kind == "ipw" else doubly_robust)
    return t * total


def test_losses_are_those_of_their_formulas(rows):
    (p, *_), _, c, _ = parts_of(rows)
    expected = {
        cf.ESMM(): esmm(rows),
        cf.MMoE(): weighted(rows, c, 1 - c),
        cf.MultiIPW(collect_floor=FLOOR): weighted(
            rows, c / np.maximum(p, FLOOR), (1 - c) / np.maximum(1 - p, FLOOR)
        ),
        cf.ESCM2(risk="ipw", risk_weight=0.3, collect_floor=FLOOR): esmm(rows) + 0.3 * risk(rows, "ipw"),
        cf.ESCM2(risk="dr", risk_weight=0.3, collect_floor=FLOOR): esmm(rows) + 0.3 * risk(rows, "dr"),
        cf.ESCM2(risk_weight=0.0): esmm(rows),
    }
    assert (p < FLOOR).any()
    for model, values in expected.items():
        assert loss_of(model, rows)[0].item() == pytest.approx(values.mean(), abs=1e-12), model


def test_a_weighted_mean_over_who_collects_is_the_risk_of_all_treated(rows):
    """The identity behind inverse-propensity weights: no row that did not collect is left out."""
    (p, b1, b2, _), t, c, y = parts_of(rows)
    model = cf.ESCM2(risk="ipw", collect_floor=1e-9)

    def risk_if(collected):
        values = (rows[0], t, collected, y)
        return model.counterfactual_risk(*(torch.tensor(np.asarray(v, dtype=np.float64)) for v in values))

    # The risk is a sum over rows: with C drawn from p, each row has both values with their probabilities.
    mean = np.mean(t * (entropy(b1, y) + entropy(b2, y)))
    n, total = len(t), 0.0
    for row in range(n):
        for value, probability in ((1, p[row]), (0, 1 - p[row])):
            total += probability * float(
                model.counterfactual_risk(
                    *(
                        torch.tensor(np.asarray(v, dtype=np.float64))
                        for v in (rows[0][:, [row]], [t[row]], [value], [y[row]])
                    )
                )
            )
    assert total / n == pytest.approx(mean, abs=1e-9)
    assert float(risk_if(c)) != pytest.approx(mean, abs=1e-3)  # one draw of C is not its mean


def test_weights_pass_no_gradient_to_the_probability_of_collecting(rows):
    _, t, c, _ = parts_of(rows)
    total, logits = loss_of(cf.MultiIPW(collect_floor=FLOOR), rows, requires_grad=True)
    total.backward()
    expected = t * (sigmoid(rows[0][0]) - c) / len(t)
    np.testing.assert_allclose(logits.grad[0].numpy(), expected, atol=1e-12)


def test_extreme_logits_have_finite_losses_and_gradients():
    both = np.repeat([[40.0, -40.0]], 6, axis=0)
    for model in (cf.ESMM(), cf.MMoE(), cf.MultiIPW(), cf.ESCM2()):
        for c, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
            rows = (both.astype(np.float32), [1, 1], [c, c], [y, y])
            logits, *outcomes = (torch.tensor(np.asarray(v, dtype=np.float32)) for v in rows)
            loss = model.loss(logits.requires_grad_(), *outcomes)
            loss.backward()
            assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("n_experts", [0, 3])
def test_heads_are_towers_or_gated_mixtures(n_experts):
    generator = torch.Generator().manual_seed(0)
    trunk = PairTrunk(5, 4, 3, 2, generator=generator, embedding_sd=1.0)
    network = HeadNetwork(trunk, 2, 6, n_experts, generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    user, item = torch.tensor([0, 4, 2]), torch.tensor([3, 0, 1])
    found = network(user, item).detach().numpy()
    value = {name: tensor.detach().numpy().astype(float) for name, tensor in network.state_dict().items()}
    for row, (u, i) in enumerate(zip(user.tolist(), item.tolist(), strict=True)):
        of_user, of_item = value["trunk.user"][u], value["trunk.item"][i]
        z = np.concatenate([of_user[:3], of_item[:3], of_user[:3] * of_item[:3]])
        layers = np.maximum(value["hidden"] @ z + value["hidden_bias"], 0).reshape(-1, 6)
        for head in range(2):
            if n_experts:
                gate = np.exp(value["gate"].reshape(2, n_experts, -1)[head] @ z)
                layer = gate / gate.sum() @ layers
            else:
                layer = layers[head]
            expected = layer @ value["out"][head] + value["out_bias"][head]
            expected += of_user[3 + head] + of_item[3 + head]
            assert found[head, row] == pytest.approx(expected, abs=1e-5)


def test_both_risks_have_the_same_slope_by_the_heads_of_buying(rows):
    slopes = {}
    for risk in ("ipw", "dr"):
        total, logits = loss_of(cf.ESCM2(risk=risk, collect_floor=FLOOR), rows, requires_grad=True)
        total.backward()
        slopes[risk] = logits.grad.numpy()
    np.testing.assert_allclose(slopes["dr"][:4], slopes["ipw"][:4], atol=1e-12)
    assert np.abs(slopes["dr"][4:]).max() > 1e-4 and not slopes["ipw"][4:].any()  # imputation
