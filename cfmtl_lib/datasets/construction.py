"""Semi-synthetic data of the paper: real ratings, strata from one network, treatment from another."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cfmtl_lib.checks import check_seed
from cfmtl_lib.datasets.ratings import Ratings
from cfmtl_lib.datasets.study import LabelledPairs, Study, split_and_treat
from cfmtl_lib.errors import StudyError, check_choice
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork, predict_probability
from cfmtl_lib.models.training import Network, derive_generator, fit_probability, new_network
from cfmtl_lib.protocol import CONSTRUCTIONS, LABELLINGS, PAPER, Protocol
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.threads import run_parallel
from cfmtl_lib.strata import ALWAYS_BUYER, COUPON_BUYER, COUPON_TAKER, NEVER_BUYER, NEVER_TAKER

UPPER_LOWER = {
    "code": {"observed": (COUPON_BUYER, ALWAYS_BUYER), "unobserved": (NEVER_BUYER, NEVER_TAKER)},
    "text": {"observed": (ALWAYS_BUYER, COUPON_BUYER), "unobserved": (NEVER_TAKER, NEVER_BUYER)},
}
"""Strata of the upper and the lower half by score, of observed positives and of unobserved pairs."""

PROPENSITY_MARGIN = 1e-6
"""Distance of the drawn propensity from 0 and 1, as a saturated sigmoid is 0 or 1 in floating point."""


class ConstructionNetworks(NamedTuple):
    """Networks behind a semi-synthetic study, fitted to the outcomes of the ratings.

    Attributes
    ----------
    labeller : AdditiveNetwork
        NCF whose score orders pairs for the strata.
    assigner : FactorizationNetwork
        MF whose score is the propensity that draws T.
    """

    labeller: AdditiveNetwork
    assigner: FactorizationNetwork


def fit_construction(
    ratings: Ratings,
    construction: str = "authors",
    seed: int = 0,
    *,
    device: str | torch.device = "auto",
    protocol: Protocol = PAPER,
    progress: bool = False,
    n_jobs: int = 1,
) -> ConstructionNetworks:
    """Fit the two networks of a construction.

    Parameters
    ----------
    ratings, construction, seed, device, protocol, progress, n_jobs
        See :func:`semisynthetic`.

    Returns
    -------
    ConstructionNetworks

    Raises
    ------
    UnknownNameError
        If construction or device are unknown.
    StudyError
        If only one outcome class occurs.
    """
    check_choice("construction", construction, CONSTRUCTIONS)
    torch_device = resolve_device(device)
    outcome = ratings.outcome
    if not 0 < outcome.sum() < len(outcome):
        raise StudyError(
            f"outcome (rating > {ratings.threshold:g})",
            expected="both classes",
            found=f"{int(outcome.sum())} ones among {len(outcome)} ratings",
            advice="Choose another threshold=.",
        )
    fits = protocol.construction[construction]
    columns = (
        # torch.tensor copies: the arrays of Ratings are read-only.
        torch.tensor(ratings.user, dtype=torch.int64, device=torch_device),
        torch.tensor(ratings.item, dtype=torch.int64, device=torch_device),
        torch.tensor(outcome, dtype=torch.float32, device=torch_device),
    )

    def fitted(kind: type[Network], config: FitConfig, purpose: str) -> Network:
        generator = derive_generator(seed, purpose, torch_device)
        network = new_network(kind, (ratings.n_users, ratings.n_items), config, generator=generator)
        fit_probability(network, columns, config, generator=generator, label=purpose, progress=progress)
        return network

    jobs: list[Callable[[], AdditiveNetwork | FactorizationNetwork]] = [
        partial(fitted, FactorizationNetwork, fits.assignment, f"{construction}: assignment MF"),
        partial(fitted, AdditiveNetwork, fits.labelling, f"{construction}: labelling NCF"),
    ]
    assigner, labeller = run_parallel(jobs, n_jobs)
    return ConstructionNetworks(cast(AdditiveNetwork, labeller), cast(FactorizationNetwork, assigner))


def semisynthetic(
    ratings: Ratings,
    labelling: str = "code",
    construction: str = "authors",
    seed: int = 0,
    *,
    device: str | torch.device = "auto",
    protocol: Protocol = PAPER,
    progress: bool = False,
    n_jobs: int = 1,
    networks: ConstructionNetworks | None = None,
) -> Study:
    r"""Construct a study with known strata from ratings (reproduction report, Section 4.3).

    1. Observed pairs have C(1) = 1 and the outcome rating > threshold. An NCF and an MF are fitted to it.
    2. Observed pairs with outcome 0 are coupon takers. Those with outcome 1 are split in halves by
       the NCF's score, and so are ``unobserved_share`` as many pairs drawn uniformly, without
       replacement, from all pairs without a rating.
    3. ``labelling="code"`` (authors' code): upper half of the positives coupon buyers, of the
       unobserved never buyers. ``labelling="text"`` (report's prose): always buyers and never takers.
    4. All pairs are shuffled and split; on the training part T is drawn with the MF's score as propensity.

    Pairs are numbered ``u * n_items + i`` and drawn as ranks among the unobserved numbers. So users x items
    is never enumerated: time and memory follow the number of pairs drawn.

    Parameters
    ----------
    ratings : Ratings
    labelling : {"code", "text"}
    construction : {"authors", "document"}
        Losses of the two fits: squared error for NCF and cross-entropy for MF, or the reverse.
    seed : int
        Seed of the two fits and of all draws.
    device : str or torch.device
    protocol : Protocol
        Fit settings and shares.
    progress : bool
        Whether to report progress on stderr.
    n_jobs : int
        Number of fits side by side, 1 or 2. The study does not depend on it.
    networks : ConstructionNetworks, optional
        Networks of :func:`fit_construction` with the same ratings, construction, seed and protocol, shared by
        studies of both labellings; fitted here if left out.

    Returns
    -------
    Study

    Raises
    ------
    UnknownNameError
        If labelling, construction or device are unknown.
    StudyError
        If only one outcome class occurs, no unobserved pairs are asked for or more than exist, or an arm is
        empty.
    """
    check_choice("labelling", labelling, LABELLINGS)
    check_choice("construction", construction, CONSTRUCTIONS)
    n_unobserved = int(protocol.unobserved_share * len(ratings))
    if n_unobserved < 1:
        raise StudyError(
            "unobserved pairs",
            expected="at least one",
            found=f"unobserved_share {protocol.unobserved_share} of {len(ratings)} ratings",
            advice="Use more ratings, or a larger Protocol.unobserved_share.",
        )
    seed = check_seed(seed)
    rng = np.random.default_rng([seed, 0])
    unobserved = sample_unobserved(ratings.pairs, ratings.n_users, ratings.n_items, n_unobserved, rng)

    if networks is None:
        networks = fit_construction(
            ratings, construction, seed, device=device, protocol=protocol, progress=progress, n_jobs=n_jobs
        )
    labeller, assigner = networks
    x = np.concatenate([ratings.pairs, unobserved])
    stratum = label_strata(
        predict_probability(labeller, ratings.pairs),
        ratings.outcome,
        predict_probability(labeller, unobserved),
        labelling,
    )
    propensity = np.clip(predict_probability(assigner, x), PROPENSITY_MARGIN, 1 - PROPENSITY_MARGIN)
    return split_and_treat(
        LabelledPairs(x, stratum, propensity),
        n_users=ratings.n_users,
        n_items=ratings.n_items,
        train_share=protocol.train_share,
        rng=rng,
        dataset=ratings.name,
        labelling=labelling,
        construction=construction,
        seed=seed,
        fingerprint=ratings.fingerprint,
        outcome_rule=ratings.outcome_rule,
    )


def label_strata(
    observed_score: NDArray[np.float64],
    outcome: NDArray[np.int8],
    unobserved_score: NDArray[np.float64],
    labelling: str,
) -> NDArray[np.int8]:
    """Label the strata of the observed pairs, followed by those of the unobserved ones.

    If the number is odd, the lower half is the smaller one.

    Examples
    --------
    >>> label_strata(np.array([0.9, 0.2, 0.5]), np.array([1, 1, 0]), np.array([0.1, 0.7]), "code").tolist()
    [3, 4, 2, 1, 0]
    """
    stratum = np.full(len(outcome) + len(unobserved_score), COUPON_TAKER, dtype=np.int8)
    positives = np.flatnonzero(outcome == 1)
    unobserved = np.arange(len(outcome), len(stratum))
    for group, rows, score in (
        ("observed", positives, observed_score[positives]),
        ("unobserved", unobserved, unobserved_score),
    ):
        upper, lower = UPPER_LOWER[labelling][group]
        stratum[rows] = np.where(_lower_half(score), lower, upper)
    return stratum


def _lower_half(score: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each score is among the n // 2 lowest, earlier ones first if equal; without sorting."""
    n_lower = len(score) // 2
    if n_lower == 0:
        return np.zeros(len(score), dtype=bool)
    middle = np.partition(score, n_lower - 1)[n_lower - 1]
    lower = score < middle
    equal = np.flatnonzero(score == middle)
    lower[equal[: n_lower - lower.sum()]] = True
    return lower


def sample_unobserved(
    observed: NDArray[np.int64], n_users: int, n_items: int, size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw distinct pairs without a rating, uniformly; memory follows ``size``, not users x items.

    Parameters
    ----------
    observed : ndarray of shape (n, 2), int64
        Distinct pairs.
    n_users, n_items, size : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of shape (size, 2), int64

    Raises
    ------
    StudyError
        If fewer than ``size`` pairs are unobserved.
    """
    codes = np.sort(observed[:, 0] * n_items + observed[:, 1])
    n_free = n_users * n_items - len(codes)
    if size > n_free:
        raise StudyError(
            "unobserved pairs",
            expected=f"at most {n_free:,}, the pairs of {n_users:,} users and {n_items:,} items not rated",
            found=f"{size:,} asked for",
            advice="Lower Protocol.unobserved_share or thin out the ratings.",
        )
    ranks = _distinct_ranks(n_free, size, rng)
    # Code number j of the sorted observed codes has codes[j] - j free codes below it. Ascending ranks are
    # looked up several times faster.
    ascending = np.argsort(ranks)
    drawn = np.empty_like(ranks)
    n_below = np.searchsorted(codes - np.arange(len(codes)), ranks[ascending], side="right")
    drawn[ascending] = ranks[ascending] + n_below
    return np.stack(np.divmod(drawn, n_items), axis=1)


def _distinct_ranks(n_free: int, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw a uniform subset of ``size`` of range(n_free)."""
    if n_free <= 4 * size:
        return rng.permutation(n_free)[:size]
    # The first ``size`` distinct values of a uniform sequence are a uniform subset.
    draws = rng.integers(0, n_free, size=size + size // 2 + 16)
    while True:
        distinct = pd.unique(draws)  # in the order of their first occurrence, by a hash table
        if len(distinct) >= size:
            return distinct[:size]
        draws = np.concatenate([draws, rng.integers(0, n_free, size=size)])
