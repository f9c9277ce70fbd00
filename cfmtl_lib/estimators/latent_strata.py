r"""Latent strata of pairs: maximum likelihood of the observed cells, under one of two assumptions.

The stratum of a pair is latent, and its cell is observed. The model is that of
:mod:`cfmtl_lib.models.latent_networks`: low-rank logits of the strata, and an assignment. The two assumptions
say what the assignment may depend on.

**"given-x"**: T is independent of the stratum given user and item, as in the paper. The likelihood of a row
is P(T | x) times P(cell | T, x), a sum of strata (:data:`~cfmtl_lib.strata.CELL_MEMBERSHIP`; paper,
Section 3.3). So overlap identifies all five strata.

**"given-response"**: T is independent of Y(0) given C(1), Y(1), user and item. In words: the platform may
have treated those whose response under treatment it could foresee, not those who would have converted
anyway. Never buyers, never takers and coupon takers each have an assignment of their own. Coupon and always
buyers share one, as they respond alike to an incentive. Models of samples that select themselves are of this
kind (J. J. Heckman, Sample selection bias as a specification error, Econometrica 47, 1979).

*Identification* under "given-response": the assignment of group g is
:math:`\operatorname{logit} e_g(x) = s_g + q(x)`. The six cells at one x are five free numbers. Given the
intercepts s, they depend on five unknown numbers: four of :math:`P(z \mid x)`, and q(x). So the strata are
identified given s. The intercepts themselves are learnt only because scores are additive and products of low
rank. Other intercepts, with another P(z | x) and q, give the same cells at each x.

So held-out likelihood cannot choose between assumptions. A model with an intercept for each stratum can
have a better likelihood and a far worse policy. Rank and priors can be chosen by likelihood, within one
assumption: see :func:`choose_latent_config`.

*When it misleads*: if the platform foresaw Y(0) too, coupon and always buyers were treated at different
rates. Then some of one are taken for the other. Use "given-response" as a sensitivity analysis beside
"given-x".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple, Self

import joblib
import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.checks import check_count, check_flag, check_jobs, check_number, check_seed, describe
from cfmtl_lib.errors import InputError, LogError, check_choice
from cfmtl_lib.estimators.base import StrataEstimator, as_log
from cfmtl_lib.estimators.likelihood import LEAST_PROBABILITY, cell_log_likelihood
from cfmtl_lib.logs.encoding import FeatureRows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.config import History
from cfmtl_lib.models.latent_networks import ASSIGNMENTS, LatentConfig, LatentNetwork
from cfmtl_lib.models.training import derive_generator, minimise
from cfmtl_lib.nuisances.pair_nuisances import training_columns
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.threads import run_parallel
from cfmtl_lib.strata import CELL_MEMBERSHIP

LATENT_CANDIDATES = tuple(
    LatentConfig(rank=rank, factor_precision=precision)
    for rank, precision in ((0, 1.0), (8, 10.0), (16, 12.0), (32, 20.0), (32, 30.0), (64, 20.0), (64, 30.0))
)
"""Settings that :func:`choose_latent_config` compares unless told otherwise."""


class LatentStrata(StrataEstimator, method="latent strata"):
    """Latent strata of user-item pairs, with an assignment given x or given the response.

    Several fits from different starts are averaged. The module's text states the assumptions.

    Parameters
    ----------
    assignment : {"given-x", "given-response"}
        What T may depend on. The default is the assumption of the paper.
    config : LatentConfig or sequence of LatentConfig, optional
        Settings of a fit; ``LatentConfig.for_rows`` if left out. Of several, the log chooses one; see
        :func:`choose_latent_config`.
    starts : int
        Number of fits that are averaged.
    device : str or torch.device
        Device of the networks. "auto" takes CUDA where there is a CUDA device.
    seed : int
    n_jobs : int
        Number of starts side by side on a CPU, each on one thread; -1 for all cores. The result does not
        depend on it.
    progress : bool
        Whether to report progress on stderr.

    Attributes
    ----------
    networks_ : list of LatentNetwork
        Fitted model of each start.
    config_ : LatentConfig
        Settings of these fits.
    held_out_ : list of float
        Mean held-out log-likelihood of each setting in ``config``; empty if there is no choice.
    histories_ : dict of str to History
        Training curve of each start.
    schema_, n_features_in_
        See :class:`~cfmtl_lib.estimators.base.LogEstimator`.

    Examples
    --------
    >>> from cfmtl_lib import simulated
    >>> study = simulated(n_users=40, n_items=40, n_pairs=1200)
    >>> model = LatentStrata(config=LatentConfig(rank=2, epochs=3), starts=2).fit(study.train)
    >>> model.predict_strata(study.test.x).shape
    (360, 5)
    """

    networks_: list[LatentNetwork]

    def __init__(
        self,
        *,
        assignment: str = "given-x",
        config: LatentConfig | Sequence[LatentConfig] | None = None,
        starts: int = 8,
        device: str = "auto",
        seed: int = 0,
        n_jobs: int = -1,
        progress: bool = False,
    ) -> None:
        self.assignment = assignment
        self.config = config
        self.starts = starts
        self.device = device
        self.seed = seed
        self.n_jobs = n_jobs
        self.progress = progress

    def fit(
        self,
        x: IncentiveLog | ParquetLog | FeatureRows,
        y: ArrayLike | None = None,
        *,
        pairs: bool | None = None,
    ) -> Self:
        """Fit strata and assignment to a log of pairs.

        Parameters
        ----------
        x : IncentiveLog, ParquetLog, or pairs of shape (n, 2)
        y : array_like of shape (n, 3), 0/1, optional
            Incentive given, collected, converted, beside pairs; see
            :meth:`~cfmtl_lib.logs.incentive_log.IncentiveLog.from_xy`.
        pairs : bool, optional
            Whether integers in two columns are user and item ids; has to be given for them beside y.

        Returns
        -------
        self

        Raises
        ------
        LogError
            If x and y make no log, or the log holds features.
        InputError
            If a parameter is out of range.
        """
        log = as_log(x, y, pairs)
        candidates = self._check(log)
        self.held_out_: list[float] = []
        self.config_ = candidates[0]
        if len(candidates) > 1:
            choice = self._choose(log, candidates)
            self.config_, self.held_out_ = choice.config, choice.table["log_likelihood"].tolist()
        fitted = fit_starts(log, self.config_, self.assignment, **self._how())
        self.networks_ = [network for network, _ in fitted]
        self.histories_ = {f"start {k}": history for k, (_, history) in enumerate(fitted)}
        self.remember_input(log)
        return self

    def _check(self, log: IncentiveLog | ParquetLog) -> tuple[LatentConfig, ...]:
        check_choice("assignment", self.assignment, ASSIGNMENTS)
        check_count(self.starts, "starts")
        check_flag(self.progress, "progress")
        check_jobs(self.n_jobs)
        check_seed(self.seed)
        _refuse_features(log)
        return as_candidates(LatentConfig.for_rows(len(log)) if self.config is None else self.config)

    def _choose(self, log: IncentiveLog | ParquetLog, candidates: Sequence[LatentConfig]) -> LatentChoice:
        if isinstance(log, ParquetLog):
            raise InputError(
                "config",
                expected="one setting for a log that is read from files",
                found=f"{len(candidates)}",
                advice="Choose on a part of the log in memory: choose_latent_config.",
            )
        return choose_latent_config(log, candidates, assignment=self.assignment, **self._how())

    def _how(self) -> dict[str, Any]:
        """Return the settings of fits that all candidates share."""
        names = ("starts", "device", "seed", "n_jobs", "progress")
        return {name: getattr(self, name) for name in names}

    def predict_strata(self, x: IncentiveLog | FeatureRows) -> NDArray[np.float64]:
        """Predict strata probabilities at x: shape (n, 5), float64, in [0, 1], rows sum to 1."""
        return self._mean("strata", x)

    def predict_propensity(self, x: IncentiveLog | FeatureRows) -> NDArray[np.float64]:
        """Predict P(T=1 | x), whatever the stratum; shape (n,)."""
        return self._mean("propensity", x)

    def _mean(self, part: str, x: IncentiveLog | FeatureRows) -> NDArray[np.float64]:
        check_is_fitted(self, "networks_")
        pairs = self.schema_.matrix(x)
        return np.mean([network.predict(part, pairs) for network in self.networks_], axis=0)


class LatentChoice(NamedTuple):
    """Settings that held-out rows chose.

    Attributes
    ----------
    config : LatentConfig
        Setting of the largest mean.
    table : DataFrame
        One row a candidate. ``log_likelihood`` is the mean over held-out rows, in nats; ``behind`` is the
        distance to the best, and ``behind_error`` the standard error of this paired difference. The other
        columns are the settings.
    """

    config: LatentConfig
    table: pd.DataFrame


def choose_latent_config(
    log: IncentiveLog,
    candidates: Sequence[LatentConfig] = LATENT_CANDIDATES,
    *,
    assignment: str = "given-x",
    share: float = 0.1,
    starts: int = 8,
    device: str = "auto",
    seed: int = 0,
    n_jobs: int = -1,
    progress: bool = False,
) -> LatentChoice:
    """Choose rank and priors of :class:`LatentStrata` by the likelihood of held-out rows.

    Under "given-x" it is the likelihood of the cell given T, which alone tells strata apart. Under
    "given-response" it is that of T and the cell. It cannot choose between the two assumptions.

    Parameters
    ----------
    log : IncentiveLog
        Log of pairs.
    candidates : sequence of LatentConfig
    assignment : {"given-x", "given-response"}
    share : float
        Share of the rows held out.
    starts : int
        Number of fits that are averaged for each candidate. The more there are, the weaker the priors that
        win, so take as many as will be used.
    device, seed, n_jobs, progress
        See :class:`LatentStrata`.

    Returns
    -------
    LatentChoice

    Raises
    ------
    LogError
        If the log holds features.
    InputError
        If there are no candidates, or a parameter is out of range.

    Examples
    --------
    >>> from cfmtl_lib import simulated
    >>> log = simulated(n_users=40, n_items=40, n_pairs=1200).train
    >>> few = [LatentConfig(rank=rank, epochs=3) for rank in (0, 2)]
    >>> choose_latent_config(log, few).table["rank"].tolist()
    [0, 2]
    """
    _refuse_features(log)
    candidates = as_candidates(candidates, "candidates")
    kept, aside = split_rows(log, share, seed=seed)
    how: dict[str, Any] = {
        "starts": starts,
        "device": device,
        "seed": seed,
        "n_jobs": n_jobs,
        "progress": progress,
    }
    rows = []
    for config in candidates:
        fitted = fit_starts(kept, config, assignment, **how)
        rows.append(latent_log_likelihood([network for network, _ in fitted], aside))
    likelihood = np.array(rows)
    best = int(likelihood.mean(axis=1).argmax())
    behind = likelihood[best] - likelihood
    table = pd.DataFrame([asdict(config) for config in candidates]).assign(
        log_likelihood=likelihood.mean(axis=1),
        behind=behind.mean(axis=1),
        behind_error=behind.std(axis=1) / np.sqrt(len(aside)),
    )
    return LatentChoice(candidates[best], table)


def split_rows(log: IncentiveLog, share: float = 0.1, *, seed: int) -> tuple[IncentiveLog, IncentiveLog]:
    """Split a log into rows to fit and rows to judge by.

    Rows are drawn by themselves, not users: nothing is known of factors of a user without rows.
    """
    share = check_number(share, "share", low=0, high=1, low_open=True, high_open=True)
    order = np.random.default_rng(check_seed(seed)).permutation(len(log))
    held = order < max(1, round(share * len(log)))
    return log.take(np.flatnonzero(~held)), log.take(np.flatnonzero(held))


def latent_log_likelihood(networks: Sequence[LatentNetwork], log: IncentiveLog) -> NDArray[np.float64]:
    """Compute the log-likelihood of rows under averaged networks; shape (n,), in nats.

    See :func:`choose_latent_config` for what it is the likelihood of.
    """
    strata = np.zeros((len(log), CELL_MEMBERSHIP.shape[1]))
    of_arm = np.zeros_like(strata)
    for network in networks:
        p, treated = network.joint(log.x)
        strata += p / len(networks)
        of_arm += p * np.where(log.t[:, None] == 1, treated, 1 - treated) / len(networks)
    if networks[0].assignment == "given-x":
        return cell_log_likelihood(strata, log)
    observed = (of_arm * CELL_MEMBERSHIP[log.cell]).sum(axis=1)
    return np.log(observed.clip(LEAST_PROBABILITY))


def fit_starts(
    log: IncentiveLog | ParquetLog,
    config: LatentConfig,
    assignment: str,
    *,
    starts: int,
    device: str | torch.device,
    seed: int,
    n_jobs: int,
    progress: bool,
) -> list[tuple[LatentNetwork, History]]:
    """Fit latent strata from several starts; see :class:`LatentStrata`."""
    where = resolve_device(device)
    columns = training_columns(log, lambda rows: rows.cell, where, torch.int8)

    def fit(start: int) -> tuple[LatentNetwork, History]:
        label = f"LatentStrata start {start}"
        network = LatentNetwork(
            *log.pair_space,
            config,
            assignment,
            n_rows=len(log),
            generator=derive_generator(seed, label, where),
        )
        history = minimise(
            network,
            network.loss,
            columns,
            config.fit_config(len(log)),
            generator=derive_generator(seed, f"{label} batches", where),
            label=label,
            progress=progress,
            schedule=config.schedule,
        )
        return network, history

    side_by_side = joblib.effective_n_jobs(n_jobs) if where.type == "cpu" else 1
    return run_parallel([partial(fit, k) for k in range(starts)], side_by_side)


def _refuse_features(log: IncentiveLog | ParquetLog) -> None:
    if not log.is_pairs:
        raise LogError(
            "log",
            expected="user-item pairs, whose factors latent strata are made of",
            found="features",
            advice="On features use CFMTL, whose backends take them.",
        )


def as_candidates(
    given: LatentConfig | Sequence[LatentConfig], subject: str = "config"
) -> tuple[LatentConfig, ...]:
    """Return one setting or several as a tuple.

    Raises
    ------
    InputError
        If there are none, or something else.
    """
    candidates = (given,) if isinstance(given, LatentConfig) else given
    if not isinstance(candidates, Sequence) or not all(isinstance(c, LatentConfig) for c in candidates):
        candidates = ()
    if not candidates:
        raise InputError(subject, expected="a LatentConfig, or a sequence of them", found=describe(given))
    return tuple(candidates)
