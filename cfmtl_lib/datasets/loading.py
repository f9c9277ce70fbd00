"""Loading of every study: simulated, from the catalog, or from a table of ratings."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from cfmtl_lib.datasets.construction import ConstructionNetworks, fit_construction, semisynthetic
from cfmtl_lib.datasets.ratings import Ratings, ThresholdWarning, load_ratings
from cfmtl_lib.datasets.simulation_pairs import simulated
from cfmtl_lib.datasets.study import Study
from cfmtl_lib.errors import RatingsError, UnknownNameError, check_choice
from cfmtl_lib.models.engines import engine_of_pairs
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork
from cfmtl_lib.protocol import CONSTRUCTIONS, PAPER
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.fit_cache import FitCache, content_hash

OBSERVED_AT_RANDOM = ("kuairec",)
"""Data sets of which each seed observes another random part, so that seeds cannot share one table."""


def ratings_of(
    dataset: str, data_dir: str | Path | None = None, seed: int = 0, threshold: float | None = None
) -> Ratings:
    """Load the ratings of a data set that is not simulated; an error lists all names, also "simulated".

    Raises
    ------
    UnknownNameError, RatingsError
        If :func:`~cfmtl_lib.datasets.ratings.load_ratings` raises them. Also if no threshold is given,
        and the default may not fit. A study is not made of outcomes that nobody chose.
    """
    try:
        with warnings.catch_warnings():
            if threshold is None:
                warnings.filterwarnings("error", category=ThresholdWarning)
            return load_ratings(dataset, data_dir, threshold=threshold, seed=seed)
    except ThresholdWarning as doubt:
        raise RatingsError(
            "threshold",
            expected="one that fits the scale of the ratings",
            found=f"none, and the default in {str(doubt).removesuffix(' Pass another.')}",
            advice="Give the rating above which an outcome counts: threshold=..., or -p threshold ... .",
        ) from None
    except UnknownNameError as unknown:
        known = unknown.expected.replace("one of ", "one of 'simulated', ", 1)
        raise UnknownNameError("dataset", expected=known, found=unknown.found) from None


def refuse_threshold(dataset: object, threshold: float | None) -> None:
    """Raise RatingsError for a threshold that would have no effect: there are no ratings to be read."""
    if threshold is not None and (dataset == "simulated" or isinstance(dataset, Ratings)):
        raise RatingsError(
            "threshold",
            expected="None for simulated outcomes, and for ratings that have one",
            found=repr(threshold),
        )


def load_study(
    dataset: str | Ratings = "simulated",
    data_dir: str | Path | None = None,
    labelling: str = "code",
    construction: str = "authors",
    seed: int = 0,
    *,
    threshold: float | None = None,
    device: str | torch.device = "auto",
    n_jobs: int = 1,
    cache: FitCache | None = None,
) -> Study:
    """Make a study by name.

    Parameters
    ----------
    dataset : str or Ratings
        "simulated", a name of the catalog, a path to a ratings table, or ratings already loaded.
    data_dir : str or Path, optional
        Folder of the data set's file; see :func:`~cfmtl_lib.datasets.ratings.load_ratings`.
    labelling : {"code", "text"}
    construction : {"authors", "document"}
    seed : int
    threshold : float, optional
        Rating above which the outcome of a pair is 1; see :func:`~cfmtl_lib.datasets.ratings.load_ratings`.
        A table whose ratings are no stars from 1 to 5 needs one.
    device : str or torch.device
    n_jobs : int
        Number of fits side by side.
    cache : FitCache, optional
        Cache of the two networks of a semi-synthetic construction.

    Returns
    -------
    Study

    Raises
    ------
    UnknownNameError, RatingsError, StudyError
        If :func:`~cfmtl_lib.datasets.construction.semisynthetic` or :func:`ratings_of` raises them.
    """
    refuse_threshold(dataset, threshold)
    if isinstance(dataset, str) and dataset == "simulated":
        return simulated(labelling, construction, seed)
    ratings = dataset if isinstance(dataset, Ratings) else ratings_of(dataset, data_dir, seed, threshold)
    networks = (
        None
        if cache is None
        else construction_networks(ratings, construction, seed, device=device, n_jobs=n_jobs, cache=cache)
    )
    return semisynthetic(
        ratings,
        labelling,
        construction,
        seed,
        device=device,
        n_jobs=n_jobs,
        networks=networks,
    )


def construction_networks(
    ratings: Ratings,
    construction: str,
    seed: int,
    *,
    device: str | torch.device = "auto",
    n_jobs: int = 1,
    cache: FitCache,
) -> ConstructionNetworks:
    """Fit the networks of a construction with the published settings, or read them from a cache."""
    config = PAPER.construction[check_choice("construction", construction, CONSTRUCTIONS)]

    def make() -> tuple[AdditiveNetwork, FactorizationNetwork]:
        labeller, assigner = fit_construction(ratings, construction, seed, device=device, n_jobs=n_jobs)
        return labeller.compact() if cache.keeps else labeller, assigner

    networks = cache(
        make,
        fit=f"construction {construction}",
        config=config,
        engine=[
            engine_of_pairs(each, resolve_device(device)) for each in (config.labelling, config.assignment)
        ],
        seed=seed,
        device=resolve_device(device).type,
        # More than the fingerprint: it leaves out the threshold, the id space and the order of rows.
        data=content_hash(ratings.pairs, ratings.outcome, ratings.n_users, ratings.n_items),
    )
    return ConstructionNetworks(*networks)
