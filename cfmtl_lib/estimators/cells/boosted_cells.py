"""CF-MTL on features by boosted trees: five logits of the strata, fitted to the cell given the arm.

The paper has networks on pairs only. Here the strata keep its mixture of six cells (Section 3.2). Trees take
the place of networks, and the loss is the likelihood of the cell given the arm
(:mod:`cfmtl_lib.estimators.cells.mixture`). The propensity is not part of that likelihood; it has trees of
its own. Boosting of a loss by its slopes and curvatures is that of Friedman (2001), "Greedy function
approximation", and of LightGBM (Ke et al., 2017).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.exceptions import ConvergenceWarning

from cfmtl_lib.checks import check_count, check_number
from cfmtl_lib.errors import InputError, TrustWarning
from cfmtl_lib.estimators.cells.backend import CellBackend, CellTask, FirstStage, held_out_rows
from cfmtl_lib.estimators.cells.mixture import (
    LEAST_SHARE,
    negative_log_likelihood,
    shares_of_cells,
    slopes_and_curvatures,
    strata_of_cells,
)
from cfmtl_lib.estimators.cells.trees import (
    MOST_THREADS,
    Loss,
    TreeAverage,
    TreeRows,
    TreeSettings,
    fit_trees,
)
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.config import History
from cfmtl_lib.nuisances.boosted import EVENTS_FOR_TREES, smoothed_rate
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.runtime.registry import storable
from cfmtl_lib.strata import CELLS, STRATA

PROPENSITY_BOUNDS = (0.01, 0.99)
"""Bounds of the propensity in the weights of the shares that boosting starts from."""


@storable
@dataclass(frozen=True)
class BoostedConfig:
    """Settings of boosted trees for CF-MTL on features; not from the paper, which has pairs only.

    Parameters
    ----------
    n_fits : int
        Number of fits whose probabilities are averaged, each with its own validation set.
    leaves : int
        Largest number of leaves of a tree, at least 2.
    learning_rate : float
        Factor in (0, 1] on each tree.
    rows_per_leaf : int
        Least number of rows of a leaf.
    l2 : float
        L2 penalty of the values of leaves.
    max_rounds : int
        Largest number of rounds, one tree a logit each; a fit that reaches it warns.
    patience : int
        Number of rounds without a fall of the validation loss at which boosting stops.
    validation_share : float
        Share of the rows (of the clusters, where there are any), in (0, 1), in the validation set.
    threads : int
        Number of threads of LightGBM. It changes only the speed.

    Raises
    ------
    InputError
        If a value is out of range.

    Examples
    --------
    >>> BoostedConfig(n_fits=2).leaves
    3
    """

    n_fits: int = 4
    leaves: int = 3
    learning_rate: float = 0.1
    rows_per_leaf: int = 20
    l2: float = 20.0
    max_rounds: int = 2000
    patience: int = 20
    validation_share: float = 0.2
    threads: int = 1

    def __post_init__(self) -> None:
        for name, least, most in (
            ("n_fits", 1, 100_000),
            ("leaves", 2, 100_000),
            ("rows_per_leaf", 1, 2**31 - 1),
            ("max_rounds", 1, 1_000_000),
            ("patience", 1, 1_000_000),
            ("threads", 1, MOST_THREADS),
        ):
            checked = check_count(getattr(self, name), f"BoostedConfig.{name}", least=least, most=most)
            object.__setattr__(self, name, checked)
        for name, bounds in (
            ("learning_rate", {"low": 0, "high": 1, "low_open": True}),
            ("l2", {"low": 0, "high": 1e12}),
            ("validation_share", {"low": 0, "high": 1, "low_open": True, "high_open": True}),
        ):
            number = check_number(getattr(self, name), f"BoostedConfig.{name}", **bounds)
            object.__setattr__(self, name, number)

    @property
    def trees(self) -> TreeSettings:
        """Settings of one fit."""
        return TreeSettings(
            self.learning_rate,
            self.leaves,
            self.rows_per_leaf,
            self.l2,
            self.max_rounds,
            self.patience,
            self.threads,
        )


@storable
class BoostedStrata:
    """Fitted trees of the strata and of the propensity.

    Parameters
    ----------
    strata, propensity : TreeAverage
        Models of five logits, and of one.
    """

    def __init__(self, strata: TreeAverage, propensity: TreeAverage) -> None:
        self.strata, self.propensity = strata, propensity

    @property
    def n_columns(self) -> int:
        """Number of columns of x."""
        return self.strata.n_columns

    def predict(self, part: str, x: NDArray) -> NDArray[np.float64]:
        """Predict probabilities of "strata", shape (n, 5), or of the "propensity", shape (n,)."""
        return {"strata": self.strata, "propensity": self.propensity}[part].predict(x)

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        return {"strata": self.strata, "propensity": self.propensity}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: Any) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        strata, propensity = parts["strata"], parts["propensity"]
        found = [(len(trees.start), trees.n_columns) for trees in (strata, propensity)]
        if found != [(len(STRATA), strata.n_columns), (1, strata.n_columns)]:
            raise InputError("trees", expected=f"{len(STRATA)} logits and 1 of one x", found=repr(found))
        return cls(strata, propensity)


class BoostedCells(CellBackend):
    """Backend that boosts the strata of a log of features, several times with other rows held out."""

    config_type = BoostedConfig
    x_kind = "features"
    preference = 1
    has_cell_loss = False
    config: BoostedConfig

    @classmethod
    def takes(cls, log: IncentiveLog | ParquetLog) -> bool:
        """Return whether the log holds features, or pairs with features."""
        return not log.is_pairs

    @classmethod
    def default_config(cls) -> BoostedConfig:
        """Return the default settings: trees of three leaves, four fits."""
        return BoostedConfig()

    def fit(
        self, log: IncentiveLog, task: CellTask, first_stage: FirstStage | None = None
    ) -> tuple[BoostedStrata, dict[str, History]]:
        """See :meth:`~cfmtl_lib.estimators.cells.backend.CellBackend.fit`."""
        _tell_of_few_rows(log)
        treated = np.asarray(log.t, dtype=np.float64)
        member = strata_of_cells(log.cell)

        def of_treatment(part: NDArray[np.bool_]) -> Loss:
            return _loss_of_treatment(treated[part])

        def of_cells(part: NDArray[np.bool_]) -> Loss:
            inside = member[part]
            return Loss(
                lambda logits: slopes_and_curvatures(logits, inside),
                lambda logits: float(negative_log_likelihood(logits, inside).mean()),
            )

        histories: dict[str, History] = {}
        rate = np.array([logit(smoothed_rate(treated))])
        propensity = self._average(log, task, "propensity", of_treatment, rate, histories)
        weight = start_weights(log, propensity)
        shares = shares_of_cells(np.bincount(log.cell, weights=weight, minlength=len(CELLS)))
        start = np.log(np.maximum(shares, LEAST_SHARE))
        strata = self._average(log, task, "cells", of_cells, start, histories)
        return BoostedStrata(strata, propensity), histories

    def _average(
        self,
        log: IncentiveLog,
        task: CellTask,
        name: str,
        loss: Any,
        start: NDArray[np.float64],
        histories: dict[str, History],
    ) -> TreeAverage:
        config = self.config
        columns = () if log.encoder is None else log.encoder.columns
        codes = [k for k, column in enumerate(columns) if column.kind == "category"]
        x = np.asarray(log.x, dtype=np.float64)
        texts = []
        label = f"{task.name} {name}"
        for k in track(range(config.n_fits), total=config.n_fits, label=label, enabled=task.progress):
            held_out = held_out_rows(log, config.validation_share, task.seed, k)
            assert held_out is not None
            rows = TreeRows(x, loss, held_out)
            text, histories[f"{name} {k}"] = fit_trees(rows, start, config.trees, codes, seed=k)
            texts.append(text)
            if not histories[f"{name} {k}"].converged:
                warnings.warn(
                    f"{label}: boosting reached max_rounds={config.max_rounds} before its validation loss "
                    "stopped falling. Raise max_rounds or learning_rate.",
                    ConvergenceWarning,
                    stacklevel=5,
                )
        return TreeAverage(start, texts, x.shape[1], config.threads)


def start_weights(log: IncentiveLog, propensity: TreeAverage) -> NDArray[np.float64]:
    """Weight rows by the inverse probability of their arm, which makes both arms alike in x; shape (n,).

    The propensity is that of the log, if it is known.
    """
    known = log.propensity
    e = (propensity.predict(log.x) if known is None else known).clip(*PROPENSITY_BOUNDS)
    treated = log.t == 1
    weight = np.where(treated, 1 / e, 1 / (1 - e))
    # Each arm as a whole counts as its number of rows: so the smaller arm does not decide alone.
    for arm in (treated, ~treated):
        if arm.any():
            weight[arm] *= arm.sum() / weight[arm].sum()
    return weight


def _loss_of_treatment(treated: NDArray[np.float64]) -> Loss:
    """Return the cross-entropy of the treatment, for a single logit."""

    def derivatives(logits: NDArray) -> tuple[NDArray, NDArray]:
        e = expit(logits.reshape(-1))
        return e - treated, e * (1 - e)

    def mean(logits: NDArray) -> float:
        scores = logits.reshape(-1)
        return float((np.logaddexp(0.0, scores) - treated * scores).mean())

    return Loss(derivatives, mean)


def _tell_of_few_rows(log: IncentiveLog) -> None:
    """Warn if converters and others of an arm are too few to tell its strata apart."""
    for arm, name in ((1, "treated"), (0, "untreated")):
        n = int((log.t == arm).sum())
        if n < EVENTS_FOR_TREES:
            warnings.warn(
                f"Few rows: only {n} are {name}, so coupon buyers and always buyers are hardly told apart. "
                "Collect more rows of that arm.",
                TrustWarning,
                stacklevel=5,
            )
