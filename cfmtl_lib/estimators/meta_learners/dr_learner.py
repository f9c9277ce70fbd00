r"""DR-learner: one regression of doubly robust scores of the effect.

Let :math:`G_t[Z]` be the doubly robust (AIPW) score of the mean of Z in arm t, from cross-fitted nuisances.
The learner regresses :math:`G_1[Y] - G_0[Y]` on x, and :math:`G_1[CY]` and :math:`G_1[C]` for the payments.
The mean of a score given x is the effect if the propensity *or* the outcome regression is right. The
regression sees the effect itself, and not two means of which it is the difference. So it can be smoother than
either. See Kennedy (2023), "Towards optimal doubly robust estimation of heterogeneous causal effects",
Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from cfmtl_lib.checks import check_count
from cfmtl_lib.estimators.effects.base import CATE, PAID, EffectEstimator
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.nuisances.amounts import doubly_robust_amounts
from cfmtl_lib.nuisances.feature_nuisances import FeatureNuisances
from cfmtl_lib.nuisances.learner_checks import check_classifier, check_regressor, fit_clone
from cfmtl_lib.nuisances.learners import adapt_learner, default_regressor
from cfmtl_lib.nuisances.moments import MOMENTS, check_clip_bounds
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.threads import threads_for


class DRLearner(EffectEstimator, method="DR-learner"):
    r"""Effects by regression on doubly robust scores (Kennedy, 2023).

    It estimates :math:`E[Y|T{=}1,x] - E[Y|T{=}0,x]` and the payments :math:`E[CY|T{=}1,x]` and
    :math:`E[C|T{=}1,x]`. On a log with an outcome M in money, the first is
    :math:`E[M|T{=}1,x] - E[M|T{=}0,x]`, and rewards are in money. It does not identify the means of the arms,
    and no strata.

    Parameters
    ----------
    outcome, propensity : classifier, optional
        Classifiers of the means and of the propensity behind the scores; boosted trees if left out. A known
        propensity of the log is used instead.
    effect : regressor, optional
        Regressor of the scores; boosted trees if left out.
    propensity_clip : (float, float)
        Bounds of an estimated propensity.
    folds : int
        Number of folds of the cross-fitting behind the scores, at least 2.
    seed : int
    progress : bool
        Whether to report progress on stderr.

    Attributes
    ----------
    effects_ : dict of str to regressor
        Fitted regression of each score.
    in_money_ : bool
        Whether the effect is that on the log's outcome in money.
    input_, schema_, n_features_in_, feature_names_in_
        See :class:`~cfmtl_lib.estimators.effects.base.EffectEstimator`.

    Examples
    --------
    >>> from cfmtl_lib import simulated_features
    >>> study = simulated_features(4000, seed=1)
    >>> effect = DRLearner().fit(study.log).predict_cate(study.log.x)
    >>> bool(np.corrcoef(effect, study.strata_probability[:, 3])[0, 1] > 0.6)
    True
    """

    fits_amounts = True

    def __init__(
        self,
        *,
        outcome: BaseEstimator | None = None,
        propensity: BaseEstimator | None = None,
        effect: BaseEstimator | None = None,
        propensity_clip: tuple[float, float] = PAPER.propensity_clip,
        folds: int = 3,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.outcome = outcome
        self.propensity = propensity
        self.effect = effect
        self.propensity_clip = propensity_clip
        self.folds = folds
        self.seed = seed
        self.progress = progress

    def _check(self) -> None:
        super()._check()
        check_count(self.folds, "folds", least=2)
        check_clip_bounds(self.propensity_clip)
        for name in ("outcome", "propensity"):
            if getattr(self, name) is not None:
                check_classifier(getattr(self, name), name)
        if self.effect is not None:
            check_regressor(self.effect, "effect")

    def _fit_effects(self, log: IncentiveLog) -> None:
        made = FeatureNuisances(
            log,
            outcome=self.outcome,
            propensity=self.propensity,
            pseudo_outcome=None,
            propensity_clip=self.propensity_clip,
            folds=self.folds,
            seed=self.seed,
            progress=self.progress,
        ).held_out()
        means = made.means()
        scores = {
            name: moment.doubly_robust(log, means[name], made.propensity) for name, moment in MOMENTS.items()
        }
        targets = {CATE: scores["converted_treated"] - scores["converted_untreated"]}
        self.in_money_ = log.outcome is not None
        if self.in_money_:
            amounts = doubly_robust_amounts(log, made, made.propensity)
            targets[CATE] = amounts[:, 0] - amounts[:, 1]
        targets |= {name: scores[name] for name in PAID}
        given = self.effect
        learner = default_regressor(log, self.seed) if given is None else adapt_learner(given, log)
        with threads_for(len(log)):
            self.effects_ = {
                name: fit_clone(clone(learner), log.x, target, f"score of {name}")
                for name, target in targets.items()
            }

    def _effects(self, x: NDArray[np.float64], names: Collection[str]) -> dict[str, NDArray[np.float64]]:
        with threads_for(len(x)):
            found = {name: np.asarray(self.effects_[name].predict(x), dtype=np.float64) for name in names}
        # A difference of probabilities lies in [-1, 1], a payment in [0, 1], an amount anywhere.
        bounds = dict.fromkeys(PAID, (0.0, 1.0)) | {
            CATE: (-np.inf, np.inf) if self.in_money_ else (-1.0, 1.0)
        }
        return {name: value.clip(*bounds[name]) for name, value in found.items()}
