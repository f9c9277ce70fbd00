r"""The paper's baselines and its three counterfactual estimators, on pairs or features.

CATE methods (OR, IPS, DR) predict :math:`(1+c)(\mu_1 - \mu_0) - c` and identify no strata. Naive predicts
:math:`\mu_1 - c`. Their counterfactual twins (CF-OR, CF-IPS, CF-DR) estimate the five strata from the same
moments and predict each row's expected reward. Moments and families:
:mod:`cfmtl_lib.nuisances.pair_nuisances`.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.estimators.base import LogEstimator, as_log, labels_of
from cfmtl_lib.estimators.likelihood import outcome_log_likelihood
from cfmtl_lib.logs.encoding import FeatureRows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.nuisances.choice import FittedMoment, Nuisances, nuisances_of
from cfmtl_lib.nuisances.moments import MOMENTS
from cfmtl_lib.nuisances.pair_nuisances import PairNuisances
from cfmtl_lib.policy.arguments import check_costs
from cfmtl_lib.policy.rewards import SCENARIOS, payment_of, reward_of_means, values_of_conversion
from cfmtl_lib.protocol import PAPER


class MomentEstimator(LogEstimator):
    """Base class of the estimators that are functions of fitted moments.

    The paper's network fits pairs unless ``outcome`` is given. Learners of scikit-learn fit anything else
    (:mod:`cfmtl_lib.nuisances.feature_nuisances`).

    Parameters
    ----------
    config : FitConfig
        Settings of every network of pairs.
    propensity_clip : (float, float)
        Bounds of the estimated propensity (IPS and DR families). A known propensity of features is not
        clipped. The propensity of pairs is always estimated, as in the paper.
    outcome : classifier, optional
        Classifier of the outcome regressions; see
        :func:`~cfmtl_lib.nuisances.learners.default_classifier` and
        :func:`~cfmtl_lib.nuisances.learners.adapt_learner`.
    propensity : classifier, optional
        Classifier of the propensity; of the same kind as ``outcome`` if left out.
    pseudo_outcome : regressor, optional
        Regressor of the IPS and DR targets, which are no probabilities; gradient boosting if left out.
    folds : int
        Number of folds of the cross-fitting behind these targets.
    device : str or torch.device
        Device of the networks. "auto" takes CUDA where there is a CUDA device.
    seed : int
    progress : bool
        Whether to report progress on stderr.

    Attributes
    ----------
    moments_ : dict of str to AdditiveNetwork or FittedMean
        Fitted moments that the method uses.
    nuisances_ : PairNuisances or FeatureNuisances
        All fits made for the estimator, with their training curves.
    schema_, n_features_in_, feature_names_in_
        See :class:`~cfmtl_lib.estimators.base.LogEstimator`.
    """

    not_saved = ("nuisances_",)
    family: ClassVar[str] = "OR"
    uses: ClassVar[tuple[str, ...]] = ("converted_treated", "converted_untreated")

    def __init__(
        self,
        *,
        config: FitConfig = PAPER.nuisance,
        propensity_clip: tuple[float, float] = PAPER.propensity_clip,
        outcome: BaseEstimator | None = None,
        propensity: BaseEstimator | None = None,
        pseudo_outcome: BaseEstimator | None = None,
        folds: int = 5,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.config = config
        self.propensity_clip = propensity_clip
        self.outcome = outcome
        self.propensity = propensity
        self.pseudo_outcome = pseudo_outcome
        self.folds = folds
        self.device = device
        self.seed = seed
        self.progress = progress

    def fit(
        self,
        x: IncentiveLog | ParquetLog | FeatureRows,
        y: ArrayLike | None = None,
        *,
        nuisances: PairNuisances | None = None,
        pairs: bool | None = None,
    ) -> Self:
        """Fit the moments.

        Parameters
        ----------
        x : IncentiveLog, ParquetLog, or features
        y : array_like of shape (n, 3), 0/1, optional
            Incentive given, collected, converted, beside features; see
            :meth:`~cfmtl_lib.logs.incentive_log.IncentiveLog.from_xy`.
        nuisances : PairNuisances, optional
            Fits of the same log, shared with other estimators. They must have the settings of this
            estimator.
        pairs : bool, optional
            Whether integers in two columns are user and item ids; has to be given for them beside y.

        Returns
        -------
        self

        Raises
        ------
        LogError
            If x and y make no log.
        InputError
            If shared fits belong to another log or other settings.
        """
        log = as_log(x, y, pairs)
        self.remember_input(log)
        self.nuisances_ = self._own_nuisances(log) if nuisances is None else self._shared(nuisances, log)
        self.moments_ = self._fit_moments(self.nuisances_)
        return self

    def _own_nuisances(self, log: IncentiveLog | ParquetLog) -> Nuisances:
        return nuisances_of(
            log,
            config=self.config,
            outcome=self.outcome,
            propensity=self.propensity,
            pseudo_outcome=self.pseudo_outcome,
            propensity_clip=self.propensity_clip,
            folds=self.folds,
            device=self.device,
            seed=self.seed,
            progress=self.progress,
        )

    def _shared(self, nuisances: PairNuisances, log: IncentiveLog | ParquetLog) -> PairNuisances:
        own = [
            name for name in ("outcome", "propensity", "pseudo_outcome") if getattr(self, name) is not None
        ]
        if own:
            raise InputError(
                "nuisances",
                expected="none beside a learner of the estimator's own",
                found=", ".join(own),
                advice="Shared fits are those of the paper's network.",
            )
        if nuisances.log is not log:
            raise InputError("nuisances", expected="fits of this log", found="fits of another log")
        if (nuisances.config, nuisances.propensity_clip, nuisances.seed) != (
            self.config,
            tuple(self.propensity_clip),
            self.seed,
        ):
            raise InputError(
                "nuisances",
                expected=f"fits with {self.config}, clip {self.propensity_clip} and seed {self.seed}",
                found=f"{nuisances.config}, clip {nuisances.propensity_clip} and seed {nuisances.seed}",
                advice="Make PairNuisances with the settings of the estimator.",
            )
        return nuisances

    def _fit_moments(self, nuisances: Nuisances) -> dict[str, FittedMoment]:
        return {name: nuisances.moment(self.family, name) for name in self.uses}

    def predict_moment(self, x: IncentiveLog | FeatureRows, name: str) -> NDArray[np.float64]:
        """Predict one fitted moment at x, shape (n,)."""
        check_is_fitted(self, "moments_")
        moment = self.moments_[check_choice("moment", name, self.moments_)]
        return moment.predict(self.schema_.matrix(x))

    def _log_likelihood(self, log: IncentiveLog) -> NDArray[np.float64]:
        """Use conversions alone, for the method does not predict collecting."""
        return outcome_log_likelihood(log, *(self.predict_moment(log, name) for name in self.uses[:2]))


class Naive(MomentEstimator, method="Naive"):
    r"""Ranking by response, :math:`\mu_1(x) - c`: the probability of converting if treated, net of cost.

    It estimates :math:`\mu_1` by regression on the treated rows. It ignores the scenario, and what rows would
    do untreated. It identifies no stratum.
    """

    uses = ("converted_treated",)

    def predict_reward(
        self,
        x: IncentiveLog | FeatureRows,
        scenario: str,
        cost: float | ArrayLike,
        conversion_value: float | ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """See :meth:`~cfmtl_lib.estimators.base.LogEstimator.predict_reward`."""
        check_choice("scenario", scenario, SCENARIOS)
        response, index = self.predict_moment(x, "converted_treated"), labels_of(x)
        costs = check_costs(cost, len(response), index=index)
        if conversion_value is None:
            return response - costs
        return values_of_conversion(costs, conversion_value, len(response), index) * response - costs


class OR(MomentEstimator, method="OR"):
    r"""Ranking by net effect, :math:`(1+c)(\mu_1 - \mu_0) - c`, by outcome regression (a T-learner).

    In both scenarios the cost is charged as if all rows but the coupon buyers were always buyers. The method
    identifies coupon buyers (the CATE) and no other stratum.
    """

    def predict_cate(self, x: IncentiveLog | FeatureRows) -> NDArray[np.float64]:
        r"""Predict the uplift :math:`\mu_1(x) - \mu_0(x)`, shape (n,)."""
        return self.predict_moment(x, "converted_treated") - self.predict_moment(x, "converted_untreated")

    def predict_reward(
        self,
        x: IncentiveLog | FeatureRows,
        scenario: str,
        cost: float | ArrayLike,
        conversion_value: float | ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """See :meth:`~cfmtl_lib.estimators.base.LogEstimator.predict_reward`."""
        check_choice("scenario", scenario, SCENARIOS)
        cate, index = self.predict_cate(x), labels_of(x)
        costs = check_costs(cost, len(cate), index=index)
        if conversion_value is None:
            return (1 + costs) * cate - costs
        return values_of_conversion(costs, conversion_value, len(cate), index) * cate - costs


class IPS(OR, method="IPS"):
    """Variant of :class:`OR` with both means fitted to inverse-propensity weighted outcomes."""

    family = "IPS"


class DR(OR, method="DR"):
    """Variant of :class:`OR` with both means fitted to doubly robust (AIPW) pseudo-outcomes."""

    family = "DR"


class ORNet(OR, method="OR-net"):
    r"""Ranking by uplift, cost paid on take-up: :math:`(1+c)(\mu_1 - \mu_0) - c\,w`, by outcome regression.

    The payment w is observed under treatment. In the coupon scenario it is for a used coupon,
    :math:`w(x) = P(C{=}1, Y{=}1|T{=}1, x)`. In the cash scenario it is for a collected incentive,
    :math:`w(x) = P(C{=}1|T{=}1, x)`. The method needs no strata and uses neither exclusion nor monotonicity.
    Under both assumptions, it predicts the expected reward of the pair. For any values of the moments, this
    equals the reward of :class:`~cfmtl_lib.estimators.counterfactual.CFOR` with ``cell_form="joint"``.
    """

    uses = tuple(MOMENTS)

    def predict_reward(
        self,
        x: IncentiveLog | FeatureRows,
        scenario: str,
        cost: float | ArrayLike,
        conversion_value: float | ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """See :meth:`~cfmtl_lib.estimators.base.LogEstimator.predict_reward`."""
        return reward_of_means(
            self.predict_moment(x, "converted_treated"),
            self.predict_moment(x, "converted_untreated"),
            self.predict_moment(x, payment_of(scenario).moment),
            cost,
            conversion_value,
            labels_of(x),
        )


class IPSNet(ORNet, method="IPS-net"):
    """Variant of :class:`ORNet` with moments fitted to inverse-propensity weighted outcomes."""

    family = "IPS"


class DRNet(ORNet, method="DR-net"):
    """Variant of :class:`ORNet` with moments fitted to doubly robust (AIPW) pseudo-outcomes."""

    family = "DR"
