"""X-learner: the effect from imputed effects of both arms, with boosted trees or any learners."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from cfmtl_lib.estimators.effects.base import CATE, EffectEstimator
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.feature_nuisances import FeatureNuisances, FittedMean
from cfmtl_lib.nuisances.learner_checks import check_classifier, check_regressor, fit_clone
from cfmtl_lib.nuisances.learners import adapt_learner, default_classifier, default_regressor
from cfmtl_lib.nuisances.moments import MOMENTS
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.progress import track
from cfmtl_lib.runtime.threads import threads_for


class XLearner(EffectEstimator, method="X-learner"):
    r"""X-learner of Künzel, Sekhon, Bickel and Yu (2019): effects imputed in each arm, then regressed.

    With the means :math:`\mu_t(x) = E[Y|T{=}t,x]` of outcome regressions and the propensity e, it regresses

    .. math::
        &Y - \mu_0(x) \text{ on the treated: } \tau_1(x), \\
        &\mu_1(x) - Y \text{ on the untreated: } \tau_0(x), \\
        &\tau(x) = e(x)\,\tau_0(x) + (1 - e(x))\,\tau_1(x) .

    It estimates :math:`\tau(x) = E[Y|T{=}1,x] - E[Y|T{=}0,x]`. Payments are means of treated rows alone,
    E[CY|T=1,x] and E[C|T=1,x], by classifiers: the untreated collect nothing, so there is no effect to
    impute. It identifies the share of coupon buyers under exclusion and monotonicity, and no other stratum.

    Parameters
    ----------
    outcome : classifier, optional
        Classifier of the means and of the payments; boosted trees if left out.
    effect : regressor, optional
        Regressor of the imputed effects; boosted trees if left out.
    propensity : classifier, optional
        Classifier of the propensity, which weighs the two regressions; of the kind of ``outcome`` if left
        out. It is fitted even where the log has a known one, as new rows have none.
    max_rows : int, optional
        Largest number of rows to fit, drawn at random by ``seed``; all if left out.
    seed : int
    progress : bool
        Whether to report progress on stderr.

    Attributes
    ----------
    means_ : dict of str to FittedMean
        Fits of the four means, by their names in :data:`~cfmtl_lib.nuisances.moments.MOMENTS`.
    propensity_ : FittedMean
    treated_effect_, untreated_effect_ : regressor
        Fits of :math:`\tau_1` and :math:`\tau_0`.
    n_rows_, input_, schema_, n_features_in_, feature_names_in_
        See :class:`~cfmtl_lib.estimators.effects.base.EffectEstimator`.

    Examples
    --------
    >>> import cfmtl_lib as cf
    >>> study = cf.simulated_features(2000)
    >>> model = XLearner().fit(study.log)
    >>> truth = study.strata_probability[:, cf.STRATA.index("coupon buyer")]
    >>> bool(abs(model.predict_cate(study.log) - truth).mean() < 0.1)
    True
    """

    predicts_arms = True

    def __init__(
        self,
        *,
        outcome: BaseEstimator | None = None,
        effect: BaseEstimator | None = None,
        propensity: BaseEstimator | None = None,
        max_rows: int | None = None,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.outcome = outcome
        self.effect = effect
        self.propensity = propensity
        self.max_rows = max_rows
        self.seed = seed
        self.progress = progress

    def _check(self) -> None:
        super()._check()
        for name, check in (
            ("outcome", check_classifier),
            ("effect", check_regressor),
            ("propensity", check_classifier),
        ):
            if getattr(self, name) is not None:
                check(getattr(self, name), name)

    def _fit_effects(self, log: IncentiveLog) -> None:
        means = FeatureNuisances(
            log,
            outcome=self.outcome,
            propensity=None,
            pseudo_outcome=None,
            propensity_clip=PAPER.propensity_clip,
            folds=2,
            seed=self.seed,
            progress=self.progress,
        )
        given = self.outcome if self.propensity is None else self.propensity
        classifier = default_classifier(log, self.seed) if given is None else adapt_learner(given, log)
        regressor = (
            default_regressor(log, self.seed) if self.effect is None else adapt_learner(self.effect, log)
        )
        fitted: dict[str, Any] = {}

        def fit_effect(arm: int) -> BaseEstimator:
            rows = log.t == arm
            other = fitted["converted_untreated" if arm else "converted_treated"].predict(log.x[rows])
            imputed = log.y[rows] - other if arm else other - log.y[rows]
            return fit_clone(regressor, log.x[rows], imputed, "effect")

        jobs: dict[str, Callable[[], Any]] = {name: partial(means.moment, "OR", name) for name in MOMENTS}
        jobs["propensity"] = lambda: FittedMean(fit_clone(classifier, log.x, log.t, "propensity"))
        jobs |= {"untreated effect": partial(fit_effect, 0), "treated effect": partial(fit_effect, 1)}
        with threads_for(len(log)):
            for name in track(jobs, total=len(jobs), label="X-learner: fits", enabled=self.progress):
                fitted[name] = jobs[name]()
        self.means_ = {name: fitted[name] for name in MOMENTS}
        self.propensity_ = fitted["propensity"]
        self.untreated_effect_, self.treated_effect_ = fitted["untreated effect"], fitted["treated effect"]

    def _effects(self, x: NDArray[np.float64], names: Collection[str]) -> dict[str, NDArray[np.float64]]:
        return {name: self._cate(x) if name == CATE else self.means_[name].predict(x) for name in names}

    def _cate(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        propensity = self.propensity_.predict(x)
        with threads_for(len(x)):
            untreated, treated = (
                np.asarray(model.predict(x)) for model in (self.untreated_effect_, self.treated_effect_)
            )
        return propensity * untreated + (1 - propensity) * treated

    def _arm_means(self, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.means_["converted_treated"].predict(x), self.means_["converted_untreated"].predict(x)
