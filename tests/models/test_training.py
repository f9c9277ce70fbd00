import math

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from cfmtl_lib.errors import InputError
from cfmtl_lib.models import training
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork
from cfmtl_lib.models.training import derive_generator, fit_probability, minimise

CPU = torch.device("cpu")


class Scripted(torch.nn.Module):
    """A model whose loss follows a script, whatever the parameters."""

    def __init__(self, losses):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.losses = iter(losses)
        self.batches = []

    def objective(self, rows):
        self.batches.append(rows.clone())
        return self.weight.sum() * 0 + next(self.losses)


def run(losses, n=4, **config):
    model = Scripted(losses)
    history = minimise(
        model,
        model.objective,
        (torch.arange(n),),
        FitConfig(**config),
        generator=derive_generator(0, "test", CPU),
        label="scripted",
    )
    return model, history


def test_stops_at_the_seventh_stalled_epoch_and_never_resets():
    # 1 falls are no stall; every second epoch stalls, so the count must survive the progress between.
    losses = [100.0]
    for _ in range(40):
        losses += [losses[-1] * 0.9, losses[-1] * 0.9]
    _, history = run(losses, tolerance=1e-4)
    assert history.converged
    assert history.n_epochs == 1 + 2 * 7


def test_a_rising_loss_counts_as_stalled():
    assert run([1.0, 2.0, 4.0, 8.0, 16.0], patience=3)[1].loss == [1.0, 2.0, 4.0, 8.0]


def test_a_small_fall_counts_as_stalled_a_larger_one_does_not():
    shrink = [(1 - 0.99e-4) ** k for k in range(60)]
    assert run(shrink, tolerance=1e-4)[1].n_epochs == 8
    with pytest.warns(ConvergenceWarning, match="max_epochs=20"):
        _, history = run([(1 - 1.01e-4) ** k for k in range(60)], tolerance=1e-4, max_epochs=20)
    assert not history.converged and history.n_epochs == 20


def test_incomplete_last_batch_is_dropped_and_rows_do_not_repeat():
    model, _ = run([1.0] * 100, n=11, batch_size=3)
    epoch = torch.cat(model.batches[:3])
    assert [len(b) for b in model.batches[:3]] == [3, 3, 3]
    assert len(set(epoch.tolist())) == 9
    assert epoch.tolist() != torch.cat(model.batches[3:6]).tolist()


def test_the_last_batch_is_used_where_it_is_asked_for():
    model, _ = run([1.0] * 100, n=11, batch_size=3, keep_last_batch=True)
    assert [len(b) for b in model.batches[:5]] == [3, 3, 3, 2, 3]
    assert sorted(torch.cat(model.batches[:4]).tolist()) == list(range(11))


def test_a_small_log_is_one_batch():
    model, _ = run([1.0] * 100, n=5, batch_size=8192)
    assert sorted(model.batches[0].tolist()) == [0, 1, 2, 3, 4]


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(
        FloatingPointError, match=r"scripted: the training loss is nan in epoch 2.*learning_rate"
    ):
        run([1.0, math.nan, 1.0])


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "hinge"},
        {"batch_size": 0},
        {"learning_rate": -1},
        {"weight_decay": math.nan},
        {"patience": 0},
        {"engine": "gpu"},
        {"parametrisation": "factors"},
        {"learning_rate_decay": 0},
        {"learning_rate_decay": 1.1},
    ],
)
def test_bad_settings_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        FitConfig(**change)


def toy(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 20, n), rng.integers(0, 15, n)
    logit = np.linspace(-2, 2, 20)[user] + np.linspace(-1, 1, 15)[item]
    y = rng.random(n) < 1 / (1 + np.exp(-logit))
    return torch.tensor(user), torch.tensor(item), torch.tensor(y, dtype=torch.float32), torch.tensor(logit)


def fit(kind, config, seed=0, **more):
    generator = derive_generator(seed, "test", CPU)
    network = kind(20, 15, config.embedding_k, generator=generator)
    user, item, y, _ = toy()
    history = fit_probability(
        network, (user, item, more.get("target", y)), config, generator=generator, label="toy"
    )
    return network, history


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
@pytest.mark.parametrize("kind", [AdditiveNetwork, FactorizationNetwork])
def test_both_losses_fit_both_networks(kind, loss):
    network, history = fit(kind, FitConfig(loss=loss, embedding_k=4, batch_size=500))
    user, item, _, logit = toy()
    found = torch.corrcoef(torch.stack([network(user, item).detach(), logit.float()]))[0, 1]
    assert history.loss[-1] < history.loss[0]
    assert found > (0.95 if kind is AdditiveNetwork else 0.8)


def test_the_two_losses_differ_where_they_should():
    squared, cross = (
        fit(AdditiveNetwork, FitConfig(loss=name, embedding_k=4))[1].loss[0]
        for name in ("squared_error", "cross_entropy")
    )
    assert squared != pytest.approx(cross)


def test_same_seed_same_bits_other_seed_other_bits():
    config = FitConfig(embedding_k=4, batch_size=500)
    first, again, other = (fit(AdditiveNetwork, config, seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first.user, again.user) and torch.equal(first.weight, again.weight)
    assert not torch.equal(first.user, other.user)


def test_cross_entropy_refuses_pseudo_outcomes():
    target = torch.full((3000,), 1.5)
    with pytest.raises(InputError, match=r"cross-entropy, found values in \[1.5, 1.5\]"):
        fit(AdditiveNetwork, FitConfig(loss="cross_entropy"), target=target)


def test_purposes_and_seeds_give_different_random_numbers():
    draws = {
        float(torch.rand((), generator=derive_generator(seed, purpose, CPU)))
        for seed in (0, 1)
        for purpose in ("a", "b")
    }
    assert len(draws) == 4


def test_training_follows_plain_adam_step_by_step():
    """The loop equals a hand-written one: same batches, L2 in the gradient, Adam with torch's defaults."""
    config = FitConfig(embedding_k=4, batch_size=1000, weight_decay=0.1, max_epochs=2, patience=99)
    user, item, y, _ = toy()
    with pytest.warns(ConvergenceWarning):
        ours, _ = fit(AdditiveNetwork, config)
    generator = derive_generator(0, "test", CPU)
    plain = AdditiveNetwork(20, 15, 4, generator=generator)
    state = [(torch.zeros_like(p), torch.zeros_like(p)) for p in plain.parameters()]
    step = 0
    for _ in range(2):
        order = torch.randperm(3000, generator=generator)
        for rows in order.split(1000):
            step += 1
            loss = ((torch.sigmoid(plain(user[rows], item[rows])) - y[rows]) ** 2).mean()
            gradients = torch.autograd.grad(loss, list(plain.parameters()))
            with torch.no_grad():
                for p, g, (m, v) in zip(plain.parameters(), gradients, state, strict=True):
                    g = g + 0.1 * p
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.999).add_(0.001 * g * g)
                    p -= 0.01 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    torch.testing.assert_close(ours.user, plain.user, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.weight, plain.weight, atol=1e-5, rtol=1e-5)


def overfit(**options):
    """Few noisy rows and an embedding for each user: the loss of held-out rows falls, then rises."""
    rng = np.random.default_rng(0)
    user, item = torch.tensor(rng.integers(0, 60, 400)), torch.tensor(rng.integers(0, 3, 400))
    target = torch.tensor(rng.random(400) < 0.5, dtype=torch.float32)
    network = AdditiveNetwork(60, 3, 4, generator=derive_generator(0, "start", CPU), embedding_sd=0.1)

    def objective(u, i, y):
        return torch.nn.functional.binary_cross_entropy_with_logits(network(u, i), y)

    config = FitConfig(
        learning_rate=0.05,
        batch_size=64,
        tolerance=0.0,
        patience=15,
        **({"validation_share": 0.25} | options),
    )
    held_out = np.arange(400) % 4 == 0
    history = minimise(
        network,
        objective,
        (user, item, target),
        config,
        generator=derive_generator(0, "batches", CPU),
        label="overfit",
        held_out=held_out,
    )
    with torch.no_grad():
        aside = torch.tensor(held_out)
        return history, float(objective(user[aside], item[aside], target[aside]))


def test_the_parameters_of_the_lowest_held_out_loss_are_kept():
    history, loss = overfit()
    assert len(history.validation_loss) == history.n_epochs
    assert history.validation_loss[-1] > min(history.validation_loss) + 0.01
    assert loss == pytest.approx(min(history.validation_loss), abs=1e-6)
    assert history.loss[-1] < history.loss[0]  # the rows that it learnt from say nothing of this


def test_held_out_rows_stop_the_fit():
    history, _ = overfit()
    lowest = int(np.argmin(history.validation_loss))
    # 15 epochs that were not the lowest so far, in a row or not: the count is not reset.
    assert history.converged and history.n_epochs <= lowest + 1 + 15
    again, _ = overfit(patience_resets=True)
    assert again.n_epochs == int(np.argmin(again.validation_loss)) + 1 + 15


def test_a_share_is_drawn_where_no_rows_are_named():
    seen = []

    def objective(rows):
        seen.append(rows)
        return network.weight.sum() * 0 + 1.0

    network = Scripted([])
    minimise(
        network,
        objective,
        (torch.arange(20),),
        FitConfig(validation_share=0.25, patience=1, batch_size=100),
        generator=derive_generator(0, "test", CPU),
        label="scripted",
    )
    learnt, watched = set(seen[0].tolist()), set(seen[1].tolist())
    assert len(watched) == 5 and learnt | watched == set(range(20)) and not learnt & watched
    with pytest.raises(InputError, match="validation_share"):
        FitConfig(validation_share=1.0)


def test_the_learning_rate_decays_by_the_epoch(monkeypatch):
    rates = []

    class Recorded:
        engine = "recorded"

        def prepared(self, columns):
            return list(columns)

        def __call__(self, columns, batch_size, learning_rate):
            rates.append(learning_rate)
            return [1.0]

    monkeypatch.setattr(training, "steps_for", lambda *_: Recorded())
    for decay, expected in ((1.0, [0.01] * 4), (0.5, [0.01, 0.005, 0.0025, 0.00125])):
        rates.clear()
        run([], learning_rate_decay=decay, patience=3, tolerance=0.5)
        assert rates == pytest.approx(expected)


def test_someone_may_look_after_each_epoch():
    seen = []
    model = Scripted([3.0, 2.0, 2.0, 2.0])
    history = minimise(
        model,
        model.objective,
        (torch.arange(4),),
        FitConfig(patience=2),
        generator=derive_generator(0, "test", CPU),
        label="scripted",
        after_epoch=lambda so_far: seen.append(list(so_far.loss)),
    )
    assert seen == [[3.0], [3.0, 2.0], [3.0, 2.0, 2.0], history.loss]
