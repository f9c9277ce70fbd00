"""REFERENCE: the published experiment in its plain form, as a baseline for the library. Not for use.

One study and nine methods for one scenario (coupon), as such experiments are usually written:

- embedding modules, concatenated embeddings and a linear layer;
- numpy index arrays, shuffled every epoch and turned into tensors batch by batch;
- an unfused Adam, and one ``loss.item()`` a step;
- every users x items pair enumerated to find the unobserved ones;
- predictions for a whole data set at once.

It shares no code with the library but the type of its input. Its data are built as the authors' code does:
with its losses (construction "authors") and its choice of halves for the strata (labelling "code").

A fit that several methods use is made once, as in the library. So a ratio of times compares how things are
computed and not how often.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cfmtl_lib.datasets.ratings import Ratings

EMBEDDING_K = 64
LEARNING_RATE = 0.01
WEIGHT_DECAY = 1e-5
STALLED_EPOCHS = 7
COST = 0.4
BUDGET = 0.4

# Strata: never buyer, never taker, coupon taker, coupon buyer, always buyer.
C1 = np.array([0, 0, 1, 1, 1])
Y0 = np.array([0, 1, 0, 0, 1])
Y1 = np.array([0, 1, 0, 1, 1])
COUPON_REWARD = np.array([0.0, 0.0, 0.0, 1.0, -COST])

# In the order (1,0,0), (1,0,1), (1,1,0), (1,1,1), (0,0,1), (0,0,0) of the cells (t, c, y).
JOINT_WEIGHTS = (5.0, 1.0, 1.0, 5.0, 5.0, 5.0)
TWO_STAGE_WEIGHTS = (1.0, 1.0, 1.0, 5.0, 10.0, 10.0)


class PlainNCF(nn.Module):
    """Embeddings, concatenated, and a linear layer: logits of shape (n,), or (n, m) for m > 1 outputs."""

    def __init__(self, n_users: int, n_items: int, k: int = EMBEDDING_K, n_outputs: int = 1) -> None:
        super().__init__()
        self.user = nn.Embedding(n_users, k)
        self.item = nn.Embedding(n_items, k)
        self.linear = nn.Linear(2 * k, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of pairs x, shape (n, 2)."""
        z = torch.cat([self.user(x[:, 0]), self.item(x[:, 1])], dim=1)
        out: Tensor = self.linear(z)
        return out.squeeze(1)


class PlainMF(nn.Module):
    """Matrix factorisation: the product of the two embeddings."""

    def __init__(self, n_users: int, n_items: int, k: int = EMBEDDING_K) -> None:
        super().__init__()
        self.user = nn.Embedding(n_users, k)
        self.item = nn.Embedding(n_items, k)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of pairs x, shape (n,)."""
        return torch.sum(self.user(x[:, 0]) * self.item(x[:, 1]), dim=1)


def squared_error(network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Compute the mean squared error of the predicted probability."""
    return F.mse_loss(torch.sigmoid(network(x)), target)


def cross_entropy(network: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Compute the mean binary cross-entropy of the predicted probability."""
    return F.binary_cross_entropy(torch.sigmoid(network(x)), target)


def cell_loss(
    strata: nn.Module,
    propensity: nn.Module,
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
    *,
    weights: Sequence[float],
    propensity_weight: float,
    floor: float = 0.1,
) -> Tensor:
    """Compute CF-MTL's six summed cross-entropies on a batch (x, t, c, y), and its propensity loss."""
    x, t, c, y = batch
    f = torch.softmax(strata(x), dim=1)
    g = torch.clip(torch.sigmoid(propensity(x)), floor, 1)
    terms = (
        (g * f[:, 0], t * (1 - c) * (1 - y)),
        (g * f[:, 1], t * (1 - c) * y),
        (g * f[:, 2], t * c * (1 - y)),
        (g * (f[:, 3] + f[:, 4]), t * c * y),
        ((1 - g) * (f[:, 1] + f[:, 4]), (1 - t) * y),
        ((1 - g) * (f[:, 0] + f[:, 2] + f[:, 3]), (1 - t) * (1 - y)),
    )
    loss = propensity_weight * torch.sum((g - t) ** 2)
    for weight, (probability, observed) in zip(weights, terms, strict=True):
        inside = torch.clip(probability + 1e-6, max=1)  # binary_cross_entropy refuses more than 1
        loss = loss + weight * F.binary_cross_entropy(inside, observed, reduction="sum")
    return loss


def fit(
    network: nn.Module,
    loss_of: Callable[..., Tensor],
    columns: Sequence[NDArray],
    rng: np.random.Generator,
    *,
    batch_size: int = 8192,
    tolerance: float = 1e-4,
    max_epochs: int = 1000,
) -> list[float]:
    """Minimise ``loss_of(*batch of columns)`` by Adam; return the loss of each epoch, summed over steps."""
    optimiser = torch.optim.Adam(
        network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, foreach=False, fused=False
    )
    n = len(columns[0])
    batch_size = min(batch_size, n)
    losses: list[float] = []
    n_stalled = 0
    for _ in range(max_epochs):
        order = np.arange(n)
        rng.shuffle(order)
        epoch_loss = 0.0
        for step in range(n // batch_size):
            rows = order[step * batch_size : (step + 1) * batch_size]
            loss = loss_of(*(torch.from_numpy(column[rows]) for column in columns))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            epoch_loss += loss.item()
        if losses and losses[-1] - epoch_loss < tolerance * losses[-1]:
            n_stalled += 1
        losses.append(epoch_loss)
        if n_stalled == STALLED_EPOCHS:
            break
    return losses


def predict(network: nn.Module, x: NDArray[np.int64]) -> NDArray[np.float32]:
    """Predict the probability of all pairs x at once: shape (n,), or (n, m) for m > 1 outputs."""
    with torch.no_grad():
        logits = network(torch.from_numpy(x))
        p: NDArray[np.float32] = (torch.sigmoid(logits) if logits.ndim == 1 else logits.softmax(1)).numpy()
    return p


@dataclass
class PlainStudy:
    """Training log (x, t, c, y) and test pairs with their true strata."""

    n_users: int
    n_items: int
    x: NDArray[np.int64]
    t: NDArray[np.float32]
    c: NDArray[np.float32]
    y: NDArray[np.float32]
    test_x: NDArray[np.int64]
    test_stratum: NDArray[np.int64]


@dataclass
class ReferenceRun:
    """Times and results of a run.

    Attributes
    ----------
    seconds : dict of str to float
        Seconds of the stages "construction" and "methods".
    rewards : dict of str to float
        Reward of each method on the test pairs, coupon scenario.
    epochs : dict of str to int
        Number of epochs of each fit.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    rewards: dict[str, float] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)


def construct(
    ratings: Ratings, rng: np.random.Generator, max_epochs: int, epochs: dict[str, int]
) -> PlainStudy:
    """Label strata by the score of an NCF, split, and draw T by the score of an MF."""
    n_users, n_items = ratings.n_users, ratings.n_items
    rated = ratings.pairs
    outcome = ratings.outcome.astype(np.float32)

    ncf = PlainNCF(n_users, n_items)
    losses = fit(
        ncf,
        lambda x, y: squared_error(ncf, x, y),
        (rated, outcome),
        rng,
        tolerance=1e-5,
        max_epochs=max_epochs,
    )
    epochs["labelling NCF"] = len(losses)
    mf = PlainMF(n_users, n_items)
    losses = fit(
        mf,
        lambda x, y: cross_entropy(mf, x, y),
        (rated, outcome),
        rng,
        batch_size=2048,
        tolerance=1e-5,
        max_epochs=max_epochs,
    )
    epochs["assignment MF"] = len(losses)

    return label_and_split(ratings, ncf, mf, rng)


def unrated_by_mask(ratings: Ratings) -> NDArray[np.int64]:
    """Find all pairs without a rating by a table of users x items, the plain way in numpy."""
    is_rated = np.zeros((ratings.n_users, ratings.n_items), dtype=bool)
    is_rated[ratings.user, ratings.item] = True
    return np.argwhere(~is_rated)


def unrated_by_lists(ratings: Ratings) -> NDArray[np.int64]:
    """Find the same pairs by a list of all pairs, as public code of this field often does."""
    rated = set(map(tuple, ratings.pairs.tolist()))
    all_pairs = [(user, item) for user in range(ratings.n_users) for item in range(ratings.n_items)]
    return np.array([pair for pair in all_pairs if pair not in rated])


def label_and_split(
    ratings: Ratings,
    ncf: PlainNCF,
    mf: PlainMF,
    rng: np.random.Generator,
    unrated_of: Callable[[Ratings], NDArray[np.int64]] = unrated_by_mask,
) -> PlainStudy:
    """Construct the study once its two networks are fitted."""
    n_users, n_items = ratings.n_users, ratings.n_items
    rated, outcome = ratings.pairs, ratings.outcome.astype(np.float32)
    unrated = unrated_of(ratings)
    drawn = unrated[rng.choice(len(unrated), size=int(0.8 * len(rated)), replace=False)]

    positive = rated[outcome == 1]
    positive = positive[np.argsort(predict(ncf, positive))]
    drawn = drawn[np.argsort(predict(ncf, drawn))]
    takers = rated[outcome == 0]
    x = np.concatenate([takers, positive, drawn])
    stratum = np.concatenate([np.full(len(takers), 2), _halves(positive, 4, 3), _halves(drawn, 1, 0)])

    order = rng.permutation(len(x))
    x, stratum = x[order], stratum[order]
    n_train = int(0.7 * len(x))
    train_stratum = stratum[:n_train]
    t = (rng.random(n_train) < predict(mf, x)[:n_train]).astype(np.float32)
    return PlainStudy(
        n_users=n_users,
        n_items=n_items,
        x=x[:n_train],
        t=t,
        c=(t * C1[train_stratum]).astype(np.float32),
        y=np.where(t == 1, Y1[train_stratum], Y0[train_stratum]).astype(np.float32),
        test_x=x[n_train:],
        test_stratum=stratum[n_train:],
    )


def _halves(ascending: NDArray, lower: int, upper: int) -> NDArray[np.int64]:
    n_lower = len(ascending) // 2
    return np.repeat([lower, upper], [n_lower, len(ascending) - n_lower])


def net_effect_reward(y0: NDArray, y1: NDArray) -> NDArray:
    """Compute the score by which OR, IPS and DR rank."""
    return (1 + COST) * (y1 - y0) - COST


def plug_in_reward(y0: NDArray, y1: NDArray, c1: NDArray) -> NDArray:
    """Compute the coupon score by which CF-OR, CF-IPS and CF-DR rank: p0101 - cost * p0111."""
    p0111 = y0 - (1 - c1) * y1
    p0101 = c1 * y1 - p0111
    return p0101 - COST * p0111


def earned(predicted: NDArray, stratum: NDArray[np.int64]) -> float:
    """Compute the coupon reward of treating the best pairs under the budget."""
    n_treated = min(int(BUDGET * len(predicted)), int((predicted > 0).sum()))
    return float(COUPON_REWARD[stratum[np.argsort(-predicted)[:n_treated]]].sum())


def evaluate(
    study: PlainStudy,
    rng: np.random.Generator,
    max_epochs: int,
    epochs: dict[str, int],
    say: Callable[[str], None],
    two_stage: bool,
) -> dict[str, float]:
    """Fit the methods and count what each earns."""
    x, t, c, y, test_x = study.x, study.t, study.c, study.y, study.test_x
    rewards: dict[str, float] = {}

    def enter(method: str, predicted: NDArray) -> None:
        rewards[method] = earned(predicted, study.test_stratum)
        say(f"{method}: {rewards[method]:,.0f}")

    def fitted(name: str, target: NDArray, keep: NDArray | slice = slice(None)) -> PlainNCF:
        network = PlainNCF(study.n_users, study.n_items)
        columns = (x[keep], target[keep].astype(np.float32))
        losses = fit(network, lambda *b: squared_error(network, *b), columns, rng, max_epochs=max_epochs)
        epochs[name] = len(losses)
        return network

    # Outcome regression.
    y1_net = fitted("y1 OR", y, t == 1)
    y1 = predict(y1_net, test_x)
    enter("Naive", y1 - COST)
    y0_net = fitted("y0 OR", y, t == 0)
    y0 = predict(y0_net, test_x)
    enter("OR", net_effect_reward(y0, y1))
    c1 = predict(fitted("c1 OR", c, t == 1), test_x)
    enter("CF-OR", plug_in_reward(y0, y1, c1))

    # Inverse propensity; take-up stays that of the outcome regression.
    e = np.clip(predict(fitted("propensity", t), x), 0.1, 0.9)
    ips_y1 = predict(fitted("y1 IPS", t * y / e), test_x)
    ips_y0 = predict(fitted("y0 IPS", (1 - t) * y / (1 - e)), test_x)
    enter("IPS", net_effect_reward(ips_y0, ips_y1))
    enter("CF-IPS", plug_in_reward(ips_y0, ips_y1, c1))

    # Doubly robust.
    train_y1, train_y0 = predict(y1_net, x), predict(y0_net, x)
    dr_y1 = predict(fitted("y1 DR", train_y1 + t * (y - train_y1) / e), test_x)
    dr_y0 = predict(fitted("y0 DR", train_y0 + (1 - t) * (y - train_y0) / (1 - e)), test_x)
    enter("DR", net_effect_reward(dr_y0, dr_y1))
    enter("CF-DR", plug_in_reward(dr_y0, dr_y1, c1))

    # CF-MTL: strata and propensity together.
    strata = PlainNCF(study.n_users, study.n_items, n_outputs=5)
    propensity = PlainNCF(study.n_users, study.n_items)
    epochs["CF-MTL"] = len(
        fit(
            nn.ModuleList([strata, propensity]),
            lambda *b: cell_loss(strata, propensity, b, weights=JOINT_WEIGHTS, propensity_weight=0.5),
            (x, t, c, y),
            rng,
            tolerance=1e-5,
            max_epochs=max_epochs,
        )
    )
    enter("CF-MTL", predict(strata, test_x) @ COUPON_REWARD)
    if not two_stage:
        return rewards

    # CF-MTL-v1: propensity and outcome first, each on its own; then everything on the six cells.
    propensity = PlainNCF(study.n_users, study.n_items)
    losses = fit(propensity, lambda *b: cross_entropy(propensity, *b), (x, t), rng, max_epochs=max_epochs)
    epochs["CF-MTL-v1 propensity"] = len(losses)
    outcome = PlainMF(study.n_users, study.n_items)
    losses = fit(outcome, lambda *b: squared_error(outcome, *b), (x, y), rng, max_epochs=max_epochs)
    epochs["CF-MTL-v1 outcome"] = len(losses)
    strata = PlainNCF(study.n_users, study.n_items, n_outputs=5)
    strata.user, strata.item = outcome.user, outcome.item
    epochs["CF-MTL-v1 cells"] = len(
        fit(
            nn.ModuleList([strata, propensity]),
            lambda *b: cell_loss(strata, propensity, b, weights=TWO_STAGE_WEIGHTS, propensity_weight=0.0),
            (x, t, c, y),
            rng,
            tolerance=1e-5,
            max_epochs=max_epochs,
        )
    )
    enter("CF-MTL-v1", predict(strata, test_x) @ COUPON_REWARD)
    return rewards


def run(
    ratings: Ratings,
    seed: int = 0,
    *,
    max_epochs: int = 1000,
    two_stage: bool = True,
    on_stage: Callable[[str, float], None] = lambda stage, seconds: None,
    say: Callable[[str], None] = lambda line: None,
) -> ReferenceRun:
    """Run one study and the nine methods in the coupon scenario, on the CPU.

    Parameters
    ----------
    ratings : Ratings
    seed : int
    max_epochs : int
        Most epochs of every fit.
    two_stage : bool
        True to fit CF-MTL-v1 too, the ninth method, which is the reproduction report's.
    on_stage : callable
        Function called with the name of a stage and its seconds when the stage has ended.
    say : callable
        Function that takes one line of progress.

    Returns
    -------
    ReferenceRun
    """
    result = ReferenceRun()
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        start = time.perf_counter()
        study = construct(ratings, rng, max_epochs, result.epochs)
        result.seconds["construction"] = time.perf_counter() - start
        on_stage("construction", result.seconds["construction"])

        start = time.perf_counter()
        result.rewards = evaluate(study, rng, max_epochs, result.epochs, say, two_stage)
        result.seconds["methods"] = time.perf_counter() - start
        on_stage("methods", result.seconds["methods"])
    return result
