r"""Bayesian additive regression trees: BART for each arm, and Bayesian causal forests, with stochtree.

A mean is a sum of many shallow trees with a prior that keeps each of them weak (Chipman, George and McCulloch
2010). Draws begin from trees grown anew in each sweep (He and Hahn 2023), then follow by Markov chain Monte
Carlo. Predictions are means of the draws. Outcomes 0/1 are fitted by least squares: a linear probability
model, whose predictions of payments and arm means are clipped to [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from cfmtl_lib.checks import check_count, check_jobs
from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.estimators.effects.base import CATE, PAID, EffectEstimator
from cfmtl_lib.estimators.effects.other_libraries import (
    NumberColumns,
    library_errors,
    optional_package,
    refuse_small_arms,
)
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.feature_nuisances import FittedMean
from cfmtl_lib.nuisances.learner_checks import check_classifier, fit_clone
from cfmtl_lib.nuisances.learners import adapt_learner, default_classifier
from cfmtl_lib.nuisances.moments import MOMENTS
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.runtime.threads import threads_for

ROWS_PER_PREDICTION = 20_000
"""Rows predicted at a time: a model holds a number for each row and draw."""

LEAST_ROWS = 20
"""Least number of rows of an arm; stochtree wants more than ten for a tree."""

LARGEST_SEED = 2**31 - 1
"""Largest seed that stochtree takes."""

ARMS = ("separate", "joint")


class _BayesianTrees(EffectEstimator):
    """Settings of the draws, and what both learners do with columns and payments."""

    cannot_be_saved = "draws of stochtree"

    n_trees: int
    n_grown: int
    n_draws: int
    n_jobs: int
    columns_: NumberColumns

    def _check(self) -> None:
        super()._check()
        check_count(self.n_trees, "n_trees", most=100_000)
        check_count(self.n_grown, "n_grown", least=0)
        check_count(self.n_draws, "n_draws", least=0)
        if self.n_grown + self.n_draws == 0:
            raise InputError("n_draws", expected="draws, or trees grown anew (n_grown)", found="0 of both")
        check_jobs(self.n_jobs)

    def _prepared(self, log: IncentiveLog) -> tuple[Any, NDArray[np.float64]]:
        """Return the package, and columns of numbers."""
        package = optional_package("stochtree", self.method)
        refuse_small_arms(log, LEAST_ROWS, self.method)
        self.columns_ = NumberColumns().fit(log)
        return package, self.columns_.transform(log.x)

    def _sampling(self) -> dict[str, Any]:
        seed = int(self.seed)
        if seed > LARGEST_SEED:  # a hash, so that no small seed has the same draws by design
            seed = int(np.random.SeedSequence(seed).generate_state(1)[0]) & LARGEST_SEED
        return {  # stochtree takes Python's integers alone
            "num_gfr": int(self.n_grown),
            "num_mcmc": int(self.n_draws),
            "general_params": {"random_seed": seed, "num_threads": int(self.n_jobs)},
        }

    def _mean(self, x: NDArray[np.float64], target: NDArray, package: Any) -> BayesianMean:
        return BayesianMean(package.BARTModel, int(self.n_trees), self._sampling()).fit(x, target)

    def _fit_payments(
        self, x: NDArray[np.float64], log: IncentiveLog, package: Any
    ) -> dict[str, BayesianMean]:
        treated = log.t == 1
        return {name: self._mean(x[treated], MOMENTS[name].observed(log)[treated], package) for name in PAID}


class BayesianMean:
    """Mean of a target by BART, or the single value of the target.

    Parameters
    ----------
    model : type
        ``stochtree.BARTModel``.
    n_trees : int
    sampling : dict
        Numbers of draws, seed and threads.
    """

    def __init__(self, model: type, n_trees: int, sampling: dict[str, Any]) -> None:
        self.model, self.n_trees, self.sampling = model, n_trees, sampling
        self.constant: float | None = None
        self.fitted: Any = None

    def fit(self, x: NDArray[np.float64], target: NDArray) -> BayesianMean:
        """Draw from the posterior, given x of shape (n, p) and n numbers."""
        if target.min() == target.max():  # its spread, by which stochtree divides, is 0
            self.constant = float(target[0])
            return self
        self.fitted = self.model()
        with library_errors("BART", "stochtree"):
            self.fitted.sample(
                X_train=x,
                y_train=target.astype(np.float64),
                mean_forest_params={"num_trees": self.n_trees},
                **self.sampling,
            )
        return self

    def predict(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average the draws at rows of x; shape (n,)."""
        if self.constant is not None:
            return np.full(len(x), self.constant)
        return in_chunks(lambda rows: self.fitted.predict(X=rows, terms="y_hat", type="posterior"), x)


def in_chunks(predict: Callable[..., NDArray], *columns: NDArray) -> NDArray[np.float64]:
    """Average predicted draws, :data:`ROWS_PER_PREDICTION` rows at a time; shape (n,).

    stochtree's own means fail for a single row, whose draws have one axis less.
    """
    parts = []
    for start in range(0, len(columns[0]), ROWS_PER_PREDICTION):
        chunk = [values[start : start + ROWS_PER_PREDICTION] for values in columns]
        parts.append(np.reshape(predict(*chunk), (len(chunk[0]), -1)).mean(axis=1))
    return np.concatenate(parts)


class BART(_BayesianTrees, method="BART"):
    r"""BART as a learner of effects (Hill 2011): a T-learner, or an S-learner.

    It estimates :math:`\tau(x) = E[Y|T{=}1,x] - E[Y|T{=}0,x]` as the difference of two means by BART.
    Payments are means of treated rows. It identifies the share of coupon buyers under exclusion and
    monotonicity, and no other stratum. It needs the package stochtree (the extra ``baselines``). It cannot be
    saved.

    Parameters
    ----------
    arms : {"separate", "joint"}
        "separate" fits each arm alone (T-learner), "joint" one mean of x and T (S-learner).
    n_trees : int
        Number of trees of a mean.
    n_grown : int
        Number of sweeps in which trees are grown anew. They are kept as draws only if ``n_draws`` is 0.
    n_draws : int
        Number of draws of the chain.
    max_rows : int or None
        Largest number of rows to fit, drawn at random by ``seed``; None takes all.
    n_jobs : int
        Number of threads, -1 for all cores. Draws can differ between numbers of threads.
    seed : int
    progress : bool
        Whether to report progress on stderr.

    Attributes
    ----------
    means_ : dict of str to BayesianMean
        Fits of E[Y|T=1,x] and E[Y|T=0,x], or of both as "joint", and of the payments.
    columns_ : NumberColumns
        Preparation of the columns of a table.
    n_rows_, input_, schema_, n_features_in_, feature_names_in_
        See :class:`~cfmtl_lib.estimators.effects.base.EffectEstimator`.
    """

    predicts_arms = True

    def __init__(
        self,
        *,
        arms: str = "separate",
        n_trees: int = 50,
        n_grown: int = 20,
        n_draws: int = 50,
        max_rows: int | None = 20_000,
        n_jobs: int = 1,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.arms = arms
        self.n_trees = n_trees
        self.n_grown = n_grown
        self.n_draws = n_draws
        self.max_rows = max_rows
        self.n_jobs = n_jobs
        self.seed = seed
        self.progress = progress

    def _check(self) -> None:
        super()._check()
        check_choice("arms", self.arms, ARMS)

    def _fit_effects(self, log: IncentiveLog) -> None:
        package, x = self._prepared(log)
        self.means_ = {}
        arms = ("converted_treated", "converted_untreated") if self.arms == "separate" else ("joint",)
        for name in track(arms, total=len(arms), label="BART: means", enabled=self.progress):
            rows = slice(None) if name == "joint" else log.t == MOMENTS[name].arm
            seen = np.column_stack([x, log.t]) if name == "joint" else x
            self.means_[name] = self._mean(seen[rows], log.y[rows], package)
        self.means_ |= self._fit_payments(x, log, package)

    def _effects(self, x: NDArray[np.float64], names: Collection[str]) -> dict[str, NDArray[np.float64]]:
        rows = self.columns_.transform(x)
        found = {name: self.means_[name].predict(rows).clip(0, 1) for name in names if name != CATE}
        if CATE in names:
            treated, untreated = self._means_of_arms(rows)
            found[CATE] = treated - untreated
        return found

    def _means_of_arms(self, rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if self.arms == "separate":
            treated, untreated = (self.means_[f"converted_{arm}"] for arm in ("treated", "untreated"))
            return treated.predict(rows), untreated.predict(rows)
        one, none = (
            self.means_["joint"].predict(np.column_stack([rows, np.full(len(rows), t)])) for t in (1.0, 0.0)
        )
        return one, none

    def _arm_means(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        treated, untreated = self._means_of_arms(self.columns_.transform(x))
        return treated.clip(0, 1), untreated.clip(0, 1)


class BCF(_BayesianTrees, method="BCF"):
    r"""Bayesian causal forest of Hahn, Murray and Carvalho (2020), by stochtree's ``BCFModel``.

    With the estimated propensity e it fits

    .. math::
        Y = \mu(x, e(x)) + \tau(x)\, T + \varepsilon

    with separate priors for both sums of trees. So the effect is shrunk towards a constant by its own prior,
    and the propensity among the covariates keeps confounding out of the effect. It estimates
    :math:`\tau(x) = E[Y|T{=}1,x] - E[Y|T{=}0,x]`. Payments are means of treated rows, by BART. It identifies
    the share of coupon buyers under exclusion and monotonicity, and no other stratum. It needs the package
    stochtree (the extra ``baselines``). It cannot be saved.

    Parameters
    ----------
    propensity : classifier, optional
        Classifier of the propensity; boosted trees if left out. It is fitted even where the log has a known
        one, as new rows have none.
    n_trees : int
        Number of trees of the means of payments. The effect has 50 trees and the prognostic part 250, as
        stochtree sets them.
    n_grown, n_draws, n_jobs, seed, progress
        See :class:`BART`.
    max_rows : int or None
        Largest number of rows to fit, drawn at random by ``seed``; None takes all.

    Attributes
    ----------
    effect_ : stochtree.BCFModel or None
        None where all rows have the same outcome, and the effect is 0.
    propensity_ : FittedMean
    payments_ : dict of str to BayesianMean
    columns_ : NumberColumns
        Preparation of the columns of a table.
    n_rows_, input_, schema_, n_features_in_, feature_names_in_
        See :class:`~cfmtl_lib.estimators.effects.base.EffectEstimator`.
    """

    predicts_arms = True

    def __init__(
        self,
        *,
        propensity: BaseEstimator | None = None,
        n_trees: int = 50,
        n_grown: int = 40,
        n_draws: int = 100,
        max_rows: int | None = 10_000,
        n_jobs: int = 1,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.propensity = propensity
        self.n_trees = n_trees
        self.n_grown = n_grown
        self.n_draws = n_draws
        self.max_rows = max_rows
        self.n_jobs = n_jobs
        self.seed = seed
        self.progress = progress

    def _check(self) -> None:
        super()._check()
        if self.propensity is not None:
            check_classifier(self.propensity, "propensity")

    def _fit_effects(self, log: IncentiveLog) -> None:
        package, x = self._prepared(log)
        learner = (
            default_classifier(log, self.seed)
            if self.propensity is None
            else adapt_learner(self.propensity, log)
        )
        steps = iter(track(range(2), total=2, label="BCF: stages", enabled=self.progress))
        next(steps)
        with threads_for(len(log)):
            self.propensity_ = FittedMean(fit_clone(learner, log.x, log.t, "propensity"))
        self.effect_ = None
        if log.y.min() != log.y.max():
            self.effect_ = package.BCFModel()
            with library_errors(self.method, "stochtree"):
                self.effect_.sample(
                    X_train=x,
                    Z_train=log.t.astype(np.float64),
                    y_train=log.y.astype(np.float64),
                    propensity_train=self.propensity_.predict(log.x),
                    **self._sampling(),
                )
        self.constant_ = float(log.y[0])
        next(steps)
        self.payments_ = self._fit_payments(x, log, package)
        list(steps)

    def _effects(self, x: NDArray[np.float64], names: Collection[str]) -> dict[str, NDArray[np.float64]]:
        rows = self.columns_.transform(x)
        found = {name: self.payments_[name].predict(rows).clip(0, 1) for name in names if name != CATE}
        if CATE in names:
            found[CATE] = self._term("cate", 1.0, x, rows)
        return found

    def _term(self, term: str, arm: float, x: NDArray, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        effect = self.effect_
        if effect is None:
            return np.full(len(x), 0.0 if term == "cate" else self.constant_)
        return in_chunks(
            lambda part, e: effect.predict(
                X=part, Z=np.full(len(part), arm), propensity=e, terms=term, type="posterior"
            ),
            rows,
            self.propensity_.predict(x),
        )

    def _arm_means(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        rows = self.columns_.transform(x)
        treated, untreated = (self._term("y_hat", arm, x, rows).clip(0, 1) for arm in (1.0, 0.0))
        return treated, untreated
