"""Richer nuisances than additive ones: factors, and boosted trees on them.

Weight decay and the number of trees are chosen on held-out rows of the log; the rest is fixed here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.nuisances.moments import MOMENTS
from cfmtl_lib.nuisances.pair_classifier import PairClassifier

FACTORS = FitConfig(
    loss="cross_entropy", embedding_k=16, embedding_sd=0.1, batch_size=2048, tolerance=1e-3, patience=3
)
"""Settings of every factorization here; its weight decay is chosen from :data:`WEIGHT_DECAYS`."""

WEIGHT_DECAYS = (1e-5, 1e-4, 1e-3)


def factorization(
    log: IncentiveLog, target: NDArray, rows: NDArray[np.intp], *, seed: int = 0, device: str = "auto"
) -> PairClassifier:
    """Fit a matrix factorisation of a 0/1 target.

    Its weight decay is chosen by log-loss on a tenth of the rows.

    Parameters
    ----------
    log : IncentiveLog
        Log of pairs.
    target : ndarray of shape (n,), 0/1
    rows : ndarray of integer
        Rows of the log to fit on.
    seed : int
    device : str

    Returns
    -------
    PairClassifier
        Classifier fitted to all of ``rows``.
    """
    shuffled = np.random.default_rng([seed, 2]).permutation(rows)
    held_out, fitted_on = np.split(shuffled, [len(rows) // 10])

    def fit(weight_decay: float, on: NDArray[np.intp]) -> PairClassifier:
        config = replace(FACTORS, weight_decay=weight_decay)
        model = PairClassifier(
            "factorization", pair_space=log.pair_space, config=config, device=device, seed=seed
        )
        return model.fit(log.x[on], target[on])

    losses = {
        decay: log_loss(target[held_out], fit(decay, fitted_on).predict_proba(log.x[held_out]), labels=[0, 1])
        for decay in WEIGHT_DECAYS
    }
    return fit(min(losses, key=losses.__getitem__), rows)


def factorised_means(
    log: IncentiveLog, x: NDArray[np.int64], *, seed: int = 0, device: str = "auto"
) -> dict[str, NDArray[np.float64]]:
    """Estimate the four conditional means at pairs x by :func:`factorization` on the rows of their arm."""
    return {
        name: factorization(
            log, moment.observed(log), np.flatnonzero(log.t == moment.arm), seed=seed, device=device
        ).predict_proba(x)[:, 1]
        for name, moment in MOMENTS.items()
    }


def boosted_propensity(
    log: IncentiveLog, x: NDArray[np.int64], *, seed: int = 0, device: str = "auto"
) -> NDArray[np.float64]:
    """Estimate P(T=1 | x) by boosted trees on the embeddings of networks of T and of Y.

    The networks are factorisations of T and of Y, and an additive one of T. They are fitted on 60 % of the
    log, the trees on the rest. On their own rows the networks' scores would look better than they are.

    Parameters
    ----------
    log : IncentiveLog
        Log of pairs.
    x : ndarray of shape (m, 2), int64
    seed : int
    device : str

    Returns
    -------
    ndarray of shape (m,), float64
        Propensity of each pair.
    """
    shuffled = np.random.default_rng([seed, 3]).permutation(len(log))
    for_networks, for_trees = np.split(shuffled, [int(0.6 * len(log))])
    factors = [
        factorization(log, target, for_networks, seed=seed, device=device) for target in (log.t, log.y)
    ]
    additive = PairClassifier(pair_space=log.pair_space, device=device, seed=seed)
    additive.fit(log.x[for_networks], log.t[for_networks])
    trees = HistGradientBoostingClassifier(max_iter=300, early_stopping=True, random_state=seed)
    with threadpool_limits(1):
        trees.fit(_features(factors, additive, log.x[for_trees]), log.t[for_trees])
        return trees.predict_proba(_features(factors, additive, x))[:, 1]


def _features(
    factors: list[PairClassifier], additive: PairClassifier, x: NDArray[np.int64]
) -> NDArray[np.float32]:
    columns = [_score(additive, x)]
    for model in factors:
        user = model.network_.user.detach().cpu().numpy()[x[:, 0]]
        item = model.network_.item.detach().cpu().numpy()[x[:, 1]]
        columns += [user, item, user * item, _score(model, x)]
    return np.concatenate(columns, axis=1, dtype=np.float32)


def _score(model: PairClassifier, x: NDArray[np.int64]) -> NDArray[np.float64]:
    return logit(np.clip(model.predict_proba(x)[:, 1:], 1e-6, 1 - 1e-6))
