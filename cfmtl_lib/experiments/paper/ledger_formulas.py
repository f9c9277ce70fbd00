"""Formulas on which the text, the code and the tables of the paper disagree.

The chapter "Paper against code" shows them. :mod:`cfmtl_lib.experiments.paper.ledger` measures them with
fitted networks.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, roc_auc_score

from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.experiments.paper.reported import reported_table4
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork
from cfmtl_lib.nuisances.moments import MOMENTS
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.strata import strata_from_moments

CELL_VARIANTS = ("product, take-up of OR", "product, own take-up", "joint")
"""Forms in which take-up enters a counterfactual estimator. They are that of the authors' code, that with
each family's own P(C=1 | T=1, x), and that with P(C=1, Y=1 | T=1, x) fitted, as the identification asks."""


def prose_cash_reward(strata_probability: ArrayLike, cost: float) -> NDArray[np.float64]:
    """Compute the cash reward by the formula of the text: p_0101 - c (p_0101 + p_0111).

    It charges the cost for coupon buyers and not for coupon takers. The paper's Table 1, the authors' code
    and the printed rows do the reverse (:func:`~cfmtl_lib.policy.rewards.stratum_rewards`).

    Examples
    --------
    >>> prose_cash_reward([[0.1, 0.1, 0.2, 0.4, 0.2]], cost=0.4).round(6).tolist()
    [0.16]
    """
    return np.asarray(strata_probability, dtype=np.float64) @ np.array([0, 0, 0, 1 - cost, -cost])


def cell_variant_strata(
    moments: dict[tuple[str, str], NDArray[np.float64]], family: str, variant: str
) -> NDArray[np.float64]:
    """Compute strata probabilities of a counterfactual estimator under one of :data:`CELL_VARIANTS`.

    Parameters
    ----------
    moments : dict of (family, moment) to ndarray of shape (n,)
    family : {"OR", "IPS", "DR"}
    variant : str

    Returns
    -------
    ndarray of shape (n, 5), float64
    """
    check_choice("variant", variant, CELL_VARIANTS)
    own = {name: moments[family, name] for name in MOMENTS}
    if variant != "joint":
        if variant == "product, take-up of OR":
            own["collected_treated"] = moments["OR", "collected_treated"]
        own["collected_and_converted_treated"] = own["collected_treated"] * own["converted_treated"]
    return strata_from_moments(*(own[name] for name in MOMENTS))


class PropensityReport(NamedTuple):
    """Distance of a fitted propensity from the true one.

    Attributes
    ----------
    log_loss : float
        Expected log-loss of the fitted propensity if T is drawn from the true one (natural logarithm).
    best_log_loss : float
        Log-loss of the true propensity itself: no model can do better.
    constant_log_loss : float
        Log-loss of the mean propensity.
    rmse : float
        Root mean squared difference from the true propensity.
    """

    log_loss: float
    best_log_loss: float
    constant_log_loss: float
    rmse: float


def propensity_report(fitted: ArrayLike, true: ArrayLike) -> PropensityReport:
    """Compare a fitted propensity with the true one.

    Parameters
    ----------
    fitted, true : array_like of shape (n,), float in (0, 1)

    Examples
    --------
    >>> report = propensity_report([0.5, 0.5], [0.2, 0.8])
    >>> round(report.log_loss - report.best_log_loss, 4), round(report.rmse, 4)
    (0.1927, 0.3)
    """
    e_hat, e = np.asarray(fitted, dtype=np.float64), np.asarray(true, dtype=np.float64)

    def log_loss(q: NDArray[np.float64] | np.float64) -> float:
        return float(-(e * np.log(q) + (1 - e) * np.log1p(-q)).mean())

    return PropensityReport(
        log_loss(e_hat), log_loss(e), log_loss(e.mean()), float(np.sqrt(np.mean((e_hat - e) ** 2)))
    )


def largest_interaction(network: AdditiveNetwork | FactorizationNetwork) -> float:
    """Find the largest deviation of a network's logits from the form a_u + b_i, over all pairs.

    With any reference user and item 0, an additive logit satisfies L_ui = L_u0 + L_0i - L_00. The
    computation is in float64.
    """
    exact = copy.deepcopy(network).cpu().double()  # not every accelerator has float64
    device = exact.user.device
    with torch.no_grad():
        user, item = (torch.arange(n, device=device) for n in (network.n_users, network.n_items))
        pairs = torch.cartesian_prod(user, item)
        logit = exact(pairs[:, 0], pairs[:, 1])
        logit = logit.reshape(network.n_users, network.n_items)
        return float((logit - logit[:, :1] - logit[:1] + logit[:1, :1]).abs().max())


def labelling_quality(score: ArrayLike, outcome: ArrayLike) -> dict[str, float]:
    """Compute AUC and accuracy (threshold 0.5) of a score on the outcomes that it was fitted to."""
    truth, found = np.asarray(outcome), np.asarray(score)
    return {
        "AUC": float(roc_auc_score(truth, found)),
        "accuracy": float(accuracy_score(truth, found > 0.5)),
        "share of ones": float(truth.mean()),
    }


SIGNATURE_IN_LISTING = frozenset(
    "x t c y num_epoch lamb tol batch_size verbose alpha1 alpha beta theta gamma rho eta thr".split()  # noqa: SIM905
)
"""Parameters of ``MLP.fit`` in the report's listing of CF-MTL-v1."""

CALL_IN_LISTING = frozenset(
    "x t c y eta alpha1 alpha beta theta gamma rho thr lr batch_size lamb tol verbose".split()  # noqa: SIM905
)
"""Arguments of its call in that listing."""


def rows_left_out(n_rows: int, config: FitConfig = PAPER.nuisance) -> int:
    """Count the rows of an epoch that no step sees, because the incomplete last batch is dropped.

    Examples
    --------
    >>> rows_left_out(20_000)
    3616
    """
    if n_rows < 1:
        raise InputError("n_rows", expected="at least 1", found=str(n_rows))
    return 0 if config.keep_last_batch else n_rows % min(config.batch_size, n_rows)


def study_sizes(n_observed: int) -> tuple[int, int]:
    """Count training rows and test pairs of a study from its observed pairs, by the published protocol.

    Examples
    --------
    >>> study_sizes(1_000_209)
    (1260263, 540113)
    """
    n_pairs = n_observed + int(PAPER.unobserved_share * n_observed)
    n_train = int(PAPER.train_share * n_pairs)
    return n_train, n_pairs - n_train


def rows_beyond_budget() -> pd.DataFrame:
    """List printed rows of Table 4 whose counts add up to more pairs than the budget allows.

    The budget of a dataset comes from print: it is the number of pairs that most of its rows treat.

    Returns
    -------
    DataFrame
        Index (dataset, method, scenario); columns treated, most (by the budget), beyond.
    """
    printed = reported_table4()
    printed["treated"] = printed[["positive", "negative", "neutral"]].sum(axis=1)
    printed["most"] = printed.groupby("dataset")["treated"].transform(lambda counts: counts.mode().iloc[0])
    printed["beyond"] = printed["treated"] - printed["most"]
    keys = ["dataset", "method", "scenario"]
    return printed[printed["beyond"] > 0].set_index(keys)[["treated", "most", "beyond"]]
