"""Causal forest: effects by honest trees on centred outcomes, with econml."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmtl_lib.checks import check_count, check_jobs
from cfmtl_lib.estimators.effects.base import CATE, PAID, EffectEstimator
from cfmtl_lib.estimators.effects.other_libraries import (
    NumberColumns,
    library_errors,
    optional_package,
    refuse_small_arms,
)
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.cross_fitting import ClassifierByFold, fold_of_rows
from cfmtl_lib.nuisances.learners import default_classifier
from cfmtl_lib.nuisances.moments import MOMENTS
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.runtime.threads import threads_for

ROWS_PER_PREDICTION = 50_000
"""Rows predicted at a time: trees hold a number for each row and tree."""

LEAST_ROWS = 20
"""Least number of rows of an arm; honest halves of the sample of a tree hold a quarter of them each."""


class CausalForest(EffectEstimator, method="causal forest"):
    r"""Causal forest of Athey, Tibshirani and Wager (2019), by econml's ``CausalForest``.

    With the cross-fitted mean :math:`m(x) = E[Y|x]` and propensity e, the forest weighs the rows near x by
    :math:`\alpha_i(x)` and solves

    .. math::
        \tau(x) = \frac{\sum_i \alpha_i(x) (T_i - e(x_i)) (Y_i - m(x_i))}
                       {\sum_i \alpha_i(x) (T_i - e(x_i))^2} ,

    up to a local intercept. Its trees are honest: one half of the rows of a tree places the splits, the other
    half fills the leaves. Under unconfoundedness it estimates
    :math:`\tau(x) = E[Y|T{=}1,x] - E[Y|T{=}0,x]`. Payments, E[CY|T=1,x] and E[C|T=1,x], are means of treated
    rows by an honest regression forest. It identifies the share of coupon buyers under exclusion and
    monotonicity, and no other stratum. It predicts no mean of an arm, so it has no ``score``.

    The forest needs the package econml (the extra ``baselines``). A fitted forest cannot be saved.

    Parameters
    ----------
    n_trees : int
        Number of trees of each forest.
    min_leaf : int
        Least number of rows in a leaf, of either half.
    max_rows : int or None
        Largest number of rows to fit, drawn at random by ``seed``. None takes all rows: time grows with
        their number, to hours for a million.
    folds : int
        Number of folds of the cross-fitting of m and e. A known propensity of the log is used instead of e.
    n_jobs : int
        Number of threads, -1 for all cores. The result does not depend on it, to 12 decimals.
    seed : int
    progress : bool
        Whether to report progress on stderr.

    Attributes
    ----------
    effect_forest_ : econml.grf.CausalForest
    payment_forest_ : econml.grf.RegressionForest
        Forest of both payments.
    columns_ : NumberColumns
        Preparation of the columns of a table.
    n_rows_, input_, schema_, n_features_in_, feature_names_in_
        See :class:`~cfmtl_lib.estimators.effects.base.EffectEstimator`.
    """

    cannot_be_saved = "trees of econml"

    def __init__(
        self,
        *,
        n_trees: int = 200,
        min_leaf: int = 20,
        max_rows: int | None = 20_000,
        folds: int = 3,
        n_jobs: int = 1,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.n_trees = n_trees
        self.min_leaf = min_leaf
        self.max_rows = max_rows
        self.folds = folds
        self.n_jobs = n_jobs
        self.seed = seed
        self.progress = progress

    def _check(self) -> None:
        super()._check()
        check_count(self.n_trees, "n_trees", most=100_000)
        check_count(self.min_leaf, "min_leaf")
        check_count(self.folds, "folds", least=2)
        check_jobs(self.n_jobs)

    def _fit_effects(self, log: IncentiveLog) -> None:
        grf = optional_package("econml.grf", self.method)
        refuse_small_arms(log, max(LEAST_ROWS, self.folds), self.method)
        self.columns_ = NumberColumns().fit(log)
        x, treated = self.columns_.transform(log.x), log.t == 1
        steps = iter(track(range(3), total=3, label="Causal forest: stages", enabled=self.progress))
        next(steps)
        mean, propensity = self._centres(log)
        next(steps)
        settings: dict[str, Any] = {
            "n_estimators": self.n_trees,
            "min_samples_leaf": self.min_leaf,
            "inference": False,
            "n_jobs": self.n_jobs,
            "random_state": self.seed,
        }
        paid = np.column_stack([MOMENTS[name].observed(log)[treated] for name in PAID])
        with library_errors(self.method, "econml"):
            self.effect_forest_ = grf.CausalForest(**settings).fit(x, log.t - propensity, log.y - mean)
            next(steps)
            self.payment_forest_ = grf.RegressionForest(**settings).fit(x[treated], paid)
        list(steps)

    def _centres(self, log: IncentiveLog) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Cross-fit the mean of Y over both arms, and the propensity unless it is known."""
        fold = fold_of_rows(log, self.folds, self.seed)
        everyone, learner = np.ones(len(log), dtype=bool), default_classifier(log, self.seed)

        def held_out(name: str, target: NDArray) -> NDArray[np.float64]:
            fits = ClassifierByFold(learner, name, target, everyone, fold)
            for k in range(int(fold.max()) + 1):
                fits.fit_part(log.x, k)
            return fits.combined()

        with threads_for(len(log)):
            known = log.propensity
            return held_out("converted", log.y), held_out("propensity", log.t) if known is None else known

    def _effects(self, x: NDArray[np.float64], names: Collection[str]) -> dict[str, NDArray[np.float64]]:
        parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
        for start in range(0, len(x), ROWS_PER_PREDICTION):
            rows = self.columns_.transform(x[start : start + ROWS_PER_PREDICTION])
            if CATE in parts:
                parts[CATE].append(np.asarray(self.effect_forest_.predict(rows))[:, 0])
            if not parts.keys() <= {CATE}:
                paid = np.asarray(self.payment_forest_.predict(rows))
                for k, name in enumerate(PAID):
                    if name in parts:
                        parts[name].append(paid[:, k])
        # Threads add up the trees in any order. Rounding keeps equal rows equal, which ties depend on.
        return {name: np.concatenate(values).round(12) for name, values in parts.items()}
