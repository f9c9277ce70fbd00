"""Simulated studies with known strata probabilities of each pair."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from cfmtl_lib.checks import check_count, check_number, check_seed
from cfmtl_lib.datasets.study import LabelledPairs, Study, split_and_treat
from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.protocol import CONSTRUCTIONS, LABELLINGS, PAPER
from cfmtl_lib.strata import draw_strata

OVERLAP = {"authors": 0.85, "document": 1.5}
"""Default overlap: each gives about the 5-95 % range of propensities that its construction has on ML-1M."""

INTERCEPTS = {"take_up": 0.2, "conversion": 0.3, "propensity": 0.3}


def simulated(
    labelling: str = "code",
    construction: str = "authors",
    seed: int = 0,
    *,
    n_users: int = 300,
    n_items: int = 300,
    n_pairs: int = 50_000,
    rank: int = 4,
    additive: float = 0.8,
    low_rank: float = 0.6,
    separation: float = 1.5,
    overlap: float | None = None,
) -> Study:
    r"""Draw a study whose strata probabilities, propensities and potential outcomes are all known.

    With independent standard normal :math:`\alpha_u, \beta_i, \alpha'_u, \beta'_i` and vectors
    :math:`P_u, Q_i, P'_u, Q'_i` of length ``rank``, each pair has an affinity and a take-up score

    .. math::
        s_{ui} = a \frac{\alpha_u + \beta_i}{\sqrt 2} + l \frac{P_u^\top Q_i}{\sqrt r}, \qquad
        k_{ui} = a \frac{\alpha'_u + \beta'_i}{\sqrt 2} + l \frac{{P'_u}^\top Q'_i}{\sqrt r},

    with a = ``additive``, l = ``low_rank``, r = ``rank``. With :math:`\sigma` the logistic function,
    :math:`\gamma` = ``separation`` and :math:`\pm` plus for ``labelling="text"``, minus for ``"code"``:

    .. math::
        q_{ui} &= P(C(1){=}1|u,i) = \sigma(0.2 + k_{ui}), \\
        h_{ui} &= P(Y(1){=}1|C(1){=}1,u,i) = \sigma(0.3 + s_{ui}), \\
        v_{ui} &= \sigma(\pm\gamma s_{ui}), \\
        p_{0000} &= (1-q)(1-v),\; p_{0011} = (1-q) v,\; p_{0100} = q(1-h), \\
        p_{0101} &= q h (1-v),\; p_{0111} = q h v, \\
        e_{ui} &= P(T{=}1|u,i) = \sigma(0.3 + s_{ui} / \text{overlap}).

    As in the labelling rules of the semi-synthetic data, v makes pairs of high affinity coupon buyers
    ("code") or always buyers ("text"). These pairs are also treated more often: T is confounded through s.
    An additive network can represent none of these probabilities exactly unless ``low_rank=0``.

    Parameters
    ----------
    labelling : {"code", "text"}
    construction : {"authors", "document"}
        Name that sets the default overlap only: 0.85 (strong confounding) or 1.5 (mild).
    seed : int
    n_users, n_items, n_pairs : int
        Numbers of users, items and distinct pairs. Pairs are drawn uniformly; 70 % become the training log.
    rank : int
    additive, low_rank : float
        Standard deviations of the two parts of the scores.
    separation : float
        Strength with which the affinity separates always from coupon buyers, and never takers from never
        buyers.
    overlap : float, optional
        Divisor of the affinity in the propensity: larger is closer to a randomised trial.

    Returns
    -------
    Study
        Study with ``strata_probability`` in ``test`` and ``train_truth``.

    Raises
    ------
    UnknownNameError, InputError
        If a name is unknown, or a number is out of range.

    Examples
    --------
    >>> study = simulated(n_users=50, n_items=40, n_pairs=1000)
    >>> study
    Study('simulated', labelling='code', construction='authors', seed=0: 700 training rows, 300 test pairs)
    >>> bool(np.allclose(study.test.strata_probability.sum(axis=1), 1))
    True
    """
    check_choice("labelling", labelling, LABELLINGS)
    check_choice("construction", construction, CONSTRUCTIONS)
    overlap = OVERLAP[construction] if overlap is None else overlap
    settings = {
        "n_users": n_users,
        "n_items": n_items,
        "n_pairs": n_pairs,
        "rank": rank,
        "additive": additive,
        "low_rank": low_rank,
        "separation": separation,
        "overlap": overlap,
    }
    counts = ("n_users", "n_items", "n_pairs", "rank")
    for name, value in settings.items():
        if name in counts:
            settings[name] = check_count(value, name)  # json knows no integers of numpy
        else:
            settings[name] = check_number(value, name, low=0, low_open=name == "overlap")
    additive, low_rank, separation, overlap = (float(settings[k]) for k in settings if k not in counts)
    n_users, n_items, n_pairs, rank = (int(settings[name]) for name in counts)
    if n_pairs > n_users * n_items:
        raise InputError(
            "n_pairs", expected=f"at most n_users * n_items = {n_users * n_items:,}", found=f"{n_pairs:,}"
        )
    seed = check_seed(seed)
    rng = np.random.default_rng([seed, 1])
    codes = rng.choice(n_users * n_items, size=n_pairs, replace=False, shuffle=False)
    x = np.stack(np.divmod(codes, n_items), axis=1).astype(np.int64)

    def score() -> NDArray[np.float64]:
        user, item = rng.standard_normal(n_users), rng.standard_normal(n_items)
        user_vector, item_vector = (rng.standard_normal((n, rank)) for n in (n_users, n_items))
        u, i = x.T
        interaction = np.einsum("nr,nr->n", user_vector[u], item_vector[i]) / np.sqrt(rank)
        return additive * (user[u] + item[i]) / np.sqrt(2) + low_rank * interaction

    affinity, take_up = score(), score()
    q = expit(INTERCEPTS["take_up"] + take_up)
    h = expit(INTERCEPTS["conversion"] + affinity)
    v = expit((separation if labelling == "text" else -separation) * affinity)
    probability = np.stack([(1 - q) * (1 - v), (1 - q) * v, q * (1 - h), q * h * (1 - v), q * h * v], axis=1)
    # One uniform number a pair, held against the cumulated probabilities.
    stratum = draw_strata(probability, rng)
    propensity = expit(INTERCEPTS["propensity"] + affinity / overlap)
    return split_and_treat(
        LabelledPairs(x, stratum, propensity, probability),
        n_users=n_users,
        n_items=n_items,
        train_share=PAPER.train_share,
        rng=rng,
        dataset="simulated",
        labelling=labelling,
        construction=construction,
        seed=seed,
        fingerprint=hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
    )
