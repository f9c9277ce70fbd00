"""Conditional expectations behind the estimators, fitted by scikit-learn learners.

The four moments and the three families are those of :mod:`cfmtl_lib.nuisances.pair_nuisances`, which fits
the paper's network to pairs. Some targets are made of other fits (inverse propensity, doubly robust). Those
fits have not seen the row: they are cross-fitted. Without cross-fitting a flexible learner reproduces its own
noise (Kennedy 2023, "Towards optimal doubly robust estimation of heterogeneous causal effects").
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from cfmtl_lib.checks import check_count, check_flag, check_number, check_seed
from cfmtl_lib.errors import InputError, TrustWarning, check_choice
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.boosted import EVENTS_FOR_TREES, BoostedClassifier, rarer
from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.nuisances.learner_checks import fit_clone, probabilities_of_one
from cfmtl_lib.nuisances.learners import adapt_learner, default_classifier, default_regressor
from cfmtl_lib.nuisances.moments import FAMILIES, MOMENTS, LogNuisances, check_clip_bounds
from cfmtl_lib.runtime.registry import storable
from cfmtl_lib.runtime.threads import threads_for


@storable
class FittedMean:
    """Fit of one moment.

    Attributes
    ----------
    learner : estimator or None
        Fitted learner; None where the target had a single value.
    constant : float
        Single value of the target.
    """

    def __init__(self, learner: BaseEstimator | None, constant: float = 0.0) -> None:
        self.learner, self.constant = learner, constant

    def to_parts(self) -> dict[str, Any]:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        return {"learner": self.learner, "constant": self.constant}

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any], device: Any) -> Self:
        """See :class:`~cfmtl_lib.runtime.registry.Part`."""
        learner = parts["learner"]
        if learner is not None and not hasattr(learner, "predict"):
            raise InputError("learner", expected="one that predicts", found=type(learner).__name__)
        return cls(learner, check_number(parts["constant"], "constant", low=0.0, high=1.0))

    def predict(self, x: NDArray) -> NDArray[np.float64]:
        """Predict the mean at rows of x, clipped to [0, 1]; shape (n,)."""
        if self.learner is None:
            return np.full(len(x), self.constant)
        with threads_for(len(x)):
            if hasattr(self.learner, "predict_proba"):
                return probabilities_of_one(self.learner, x, "outcome")
            return np.asarray(self.learner.predict(x), dtype=np.float64).clip(0.0, 1.0)


class FeatureNuisances:
    """Moments of one log by scikit-learn learners, made when first asked for.

    Parameters
    ----------
    log : IncentiveLog
    outcome : classifier, optional
        Classifier of the outcome regressions; see
        :func:`~cfmtl_lib.nuisances.learners.default_classifier` for the default.
    propensity : classifier, optional
        Classifier of the propensity, unused if the log has a known one; of the kind of ``outcome`` if left
        out.
    pseudo_outcome : regressor, optional
        Regressor of the IPS and DR targets; gradient boosting if left out.
    propensity_clip : (float, float)
        Bounds of the estimated propensity.
    folds : int
        Number of folds of the cross-fitting, at least 2.
    seed : int
    progress : bool

    Raises
    ------
    InputError
        If the clip is no interval inside (0, 1), there are fewer than 2 folds, or a learner would take ids
        for quantities.
    """

    def __init__(
        self,
        log: IncentiveLog,
        *,
        outcome: BaseEstimator | None,
        propensity: BaseEstimator | None,
        pseudo_outcome: BaseEstimator | None,
        propensity_clip: tuple[float, float],
        folds: int,
        seed: int,
        progress: bool,
    ) -> None:
        self.log, self.propensity_clip = log, check_clip_bounds(propensity_clip)
        self.folds, self.seed = check_count(folds, "folds", least=2), check_seed(seed)
        self.progress = check_flag(progress, "progress")
        self._outcome = default_classifier(log, seed) if outcome is None else adapt_learner(outcome, log)
        self._propensity = propensity if propensity is None else adapt_learner(propensity, log)
        self._pseudo_outcome = pseudo_outcome
        self._fitted: dict[str, FittedMean] = {}
        self._held_out: LogNuisances | None = None

    def held_out(self) -> LogNuisances:
        """Cross-fit the propensity and the means of each row; an estimated propensity is clipped."""
        if self._held_out is None:
            made = crossfit(
                self.log,
                outcome=self._outcome,
                propensity=self._propensity if self.log.propensity is None else None,
                folds=self.folds,
                seed=self.seed,
                progress=self.progress,
            )
            self._held_out = made if made.propensity_is_known else made.clipped(*self.propensity_clip)
        return self._held_out

    def moment(self, family: str, name: str) -> FittedMean:
        """Return the fit of one moment.

        Parameters
        ----------
        family : {"OR", "IPS", "DR"}
        name : str
            One of :data:`~cfmtl_lib.nuisances.moments.MOMENTS`.

        Raises
        ------
        UnknownNameError
            If family or name are unknown.
        """
        key = f"{check_choice('family', family, FAMILIES)} {check_choice('moment', name, MOMENTS)}"
        if key not in self._fitted:
            self._fitted[key] = self._regression(name) if family == "OR" else self._pseudo(family, name)
        return self._fitted[key]

    def _regression(self, name: str) -> FittedMean:
        moment = MOMENTS[name]
        rows = self.log.t == moment.arm
        target = moment.observed(self.log)[rows]
        if target.min() == target.max():  # many classifiers refuse a single class
            return FittedMean(None, float(target[0]))
        if isinstance(self._outcome, BoostedClassifier) and rarer(target) < EVENTS_FOR_TREES:
            warnings.warn(
                f"Few events: {name} is estimated by the rate of all rows, as only {rarer(target)} rows have "
                "the rarer outcome. So x does not explain it.",
                TrustWarning,
                stacklevel=4,
            )
        return self._fit(clone(self._outcome), rows, target)

    def _pseudo(self, family: str, name: str) -> FittedMean:
        log, made = self.log, self.held_out()
        mean = made.means()[name] if family == "DR" else np.zeros(len(log))
        target = MOMENTS[name].doubly_robust(log, mean, made.propensity)
        learner = (
            default_regressor(log, self.seed)
            if self._pseudo_outcome is None
            else clone(adapt_learner(self._pseudo_outcome, log))
        )
        return self._fit(learner, np.ones(len(log), dtype=bool), target)

    def _fit(self, learner: BaseEstimator, rows: NDArray[np.bool_], target: NDArray) -> FittedMean:
        with threads_for(int(rows.sum())):
            what = "outcome" if target.dtype.kind in "iu" else "pseudo_outcome"
            return FittedMean(fit_clone(learner, self.log.x[rows], target, what))
