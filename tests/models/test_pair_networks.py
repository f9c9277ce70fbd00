import numpy as np
import pytest
import torch

from cfmtl_lib.errors import LogError
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork, predict_probability
from cfmtl_lib.models.training import derive_generator

CPU = torch.device("cpu")
N_USERS, N_ITEMS, K = 23, 17, 6


def network(kind, *outputs, dtype=torch.float64, k=K):
    return kind(N_USERS, N_ITEMS, k, *outputs, generator=derive_generator(0, "test", CPU), dtype=dtype)


def batch(n=400):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, N_USERS, n)), torch.from_numpy(rng.integers(0, N_ITEMS, n))


def concatenated_logits(net, user, item):
    """The plain form of the paper: a linear layer on gathered, concatenated embeddings."""
    z = torch.cat(
        [torch.nn.functional.embedding(user, net.user), torch.nn.functional.embedding(item, net.item)], dim=1
    )
    return torch.nn.functional.linear(z, net.weight, net.bias).T.squeeze(0)


@pytest.mark.parametrize("outputs", [1, 5])
def test_scalar_gather_equals_the_concatenated_form_with_its_gradients(outputs):
    user, item = batch()
    net = network(AdditiveNetwork, outputs)
    target = torch.rand(5, len(user), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    target = target[0] if outputs == 1 else target
    gradients = []
    for logits in (net(user, item), concatenated_logits(net, user, item)):
        net.zero_grad()
        torch.nn.functional.mse_loss(torch.sigmoid(logits), target).backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    torch.testing.assert_close(net(user, item), concatenated_logits(net, user, item), atol=1e-12, rtol=0)
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-10, rtol=0)
        assert plain.abs().max() > 1e-6  # the comparison is not of zeros


def test_the_additive_network_has_no_interaction():
    net = network(AdditiveNetwork)
    grid = torch.cartesian_prod(torch.arange(N_USERS), torch.arange(N_ITEMS))
    logits = net(grid[:, 0], grid[:, 1]).detach().reshape(N_USERS, N_ITEMS)
    interaction = logits - logits.mean(1, keepdim=True) - logits.mean(0) + logits.mean()
    assert interaction.abs().max() < 1e-12


def test_factorisation_is_a_dot_product_with_its_gradients():
    user, item = batch()
    net = network(FactorizationNetwork)
    plain = (
        torch.nn.functional.embedding(user, net.user) * torch.nn.functional.embedding(item, net.item)
    ).sum(1)
    torch.testing.assert_close(net(user, item), plain)
    ours = torch.autograd.grad(net(user, item).square().sum(), (net.user, net.item))
    theirs = torch.autograd.grad(plain.square().sum(), (net.user, net.item))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_initial_values_follow_the_protocol():
    net = AdditiveNetwork(4000, 3000, 64, generator=derive_generator(0, "test", CPU))
    for table in (net.user, net.item):
        n = table.numel()
        assert abs(float(table.detach().double().mean())) < 3 / n**0.5
        assert abs(float(table.detach().double().var()) - 1) < 3 * (2 / n) ** 0.5
    bound = 128**-0.5
    assert net.weight.abs().max() <= bound and net.weight.abs().max() > 0.9 * bound
    assert net.weight.min() < -0.5 * bound


def test_ids_may_be_int32():
    user, item = batch()
    net = network(AdditiveNetwork)
    torch.testing.assert_close(net(user.int(), item.int()), net(user, item))


def test_prediction_in_pieces_equals_prediction_at_once(monkeypatch):
    user, item = batch()
    x = torch.stack([user, item], dim=1).numpy()
    for net, shape in ((network(AdditiveNetwork), (400,)), (network(AdditiveNetwork, 5), (400, 5))):
        whole = predict_probability(net, x)
        monkeypatch.setattr("cfmtl_lib.models.pair_networks.ROWS_PER_PREDICTION", 7)
        np.testing.assert_allclose(predict_probability(net, x), whole, atol=1e-12)
        monkeypatch.undo()
        assert whole.shape == shape and whole.dtype == np.float64
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-12)


def test_prediction_refuses_ids_outside_the_tables():
    with pytest.raises(LogError, match="user id"):
        predict_probability(network(AdditiveNetwork), [[N_USERS, 0]])
