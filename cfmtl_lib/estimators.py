r"""The paper's baselines and its three counterfactual estimators, on user-item pairs.

CATE methods (OR, IPS, DR) predict :math:`(1+c)(\mu_1 - \mu_0) - c` and know no strata; Naive predicts
:math:`\mu_1 - c`. Their counterfactual twins (CF-OR, CF-IPS, CF-DR) estimate the five strata from the same
moments and predict each pair's expected reward. Moments and families: :mod:`cfmtl_lib.nuisances`.
"""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.errors import InputError, check_choice
from cfmtl_lib.logs import IncentiveLog
from cfmtl_lib.networks import AdditiveNetwork, predict_probability
from cfmtl_lib.nuisances import MOMENTS, PairNuisances
from cfmtl_lib.policy import expected_reward
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.strata import SCENARIOS, check_cost, strata_from_moments
from cfmtl_lib.training import FitConfig

CELL_FORMS = ("joint", "product")


class MomentEstimator(BaseEstimator):
    """Base of the estimators that are functions of fitted moments.

    Parameters
    ----------
    config : FitConfig
        Of every network.
    propensity_clip : (float, float)
        Bounds of the estimated propensity (IPS and DR families).
    device : str or torch.device
        "auto" takes CUDA where there is a CUDA device.
    seed : int
    progress : bool
        Say on stderr how far the fits are.

    Attributes
    ----------
    moments_ : dict of str to AdditiveNetwork
        The fitted moments that the method uses.
    nuisances_ : PairNuisances
        All fits made for it, with their training curves.
    """

    family: ClassVar[str] = "OR"
    uses: ClassVar[tuple[str, ...]] = ("converted_treated", "converted_untreated")

    def __init__(
        self,
        *,
        config: FitConfig = PAPER.nuisance,
        propensity_clip: tuple[float, float] = PAPER.propensity_clip,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.config = config
        self.propensity_clip = propensity_clip
        self.device = device
        self.seed = seed
        self.progress = progress

    def fit(self, log: IncentiveLog, nuisances: PairNuisances | None = None) -> Self:
        """Fit the moments.

        Parameters
        ----------
        log : IncentiveLog
            Of pairs.
        nuisances : PairNuisances, optional
            Fits of the same log to share with other estimators. They must have been made with the
            settings of this estimator.

        Returns
        -------
        self

        Raises
        ------
        LogError
            If the log holds features.
        InputError
            If shared fits belong to another log or other settings.
        """
        if nuisances is None:
            nuisances = PairNuisances(
                log,
                config=self.config,
                propensity_clip=self.propensity_clip,
                device=self.device,
                seed=self.seed,
                progress=self.progress,
            )
        elif nuisances.log is not log:
            raise InputError("nuisances", expected="fits of this log", found="fits of another log")
        elif (nuisances.config, nuisances.propensity_clip, nuisances.seed) != (
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
        self.nuisances_ = nuisances
        self.moments_ = self._fit_moments(nuisances)
        return self

    def _fit_moments(self, nuisances: PairNuisances) -> dict[str, AdditiveNetwork]:
        return {name: nuisances.moment(self.family, name) for name in self.uses}

    def predict_moment(self, x: ArrayLike, name: str) -> NDArray[np.float64]:
        """One fitted moment at pairs x, shape (n,)."""
        check_is_fitted(self, "moments_")
        return predict_probability(self.moments_[check_choice("moment", name, self.moments_)], x)

    def predict_reward(
        self, x: ArrayLike, scenario: str = "coupon", cost: float = PAPER.cost
    ) -> NDArray[np.float64]:
        """Predicted reward of treating each pair, to rank pairs by.

        Parameters
        ----------
        x : array_like of shape (n, 2), integer
            User and item ids.
        scenario : {"coupon", "cash"}
        cost : float
            Cost c >= 0 of one incentive, in units of one conversion.

        Returns
        -------
        ndarray of shape (n,), float64
        """
        raise NotImplementedError


class Naive(MomentEstimator):
    r"""Rank by response, :math:`\mu_1(x) - c`: who converts when treated, whatever they would do untreated.

    Estimates :math:`\mu_1` by regression on the treated rows. Ignores the scenario. Identifies no stratum.
    """

    uses = ("converted_treated",)

    def predict_reward(
        self, x: ArrayLike, scenario: str = "coupon", cost: float = PAPER.cost
    ) -> NDArray[np.float64]:
        """See :meth:`MomentEstimator.predict_reward`."""
        check_choice("scenario", scenario, SCENARIOS)
        return self.predict_moment(x, "converted_treated") - check_cost(cost)


class OR(MomentEstimator):
    r"""Rank by net effect, :math:`(1+c)(\mu_1 - \mu_0) - c`, both means by outcome regression (a T-learner).

    The cost is charged as if all who do not convert because of the incentive were always buyers, in
    both scenarios. Identifies coupon buyers (the CATE), no other stratum.
    """

    def predict_cate(self, x: ArrayLike) -> NDArray[np.float64]:
        r"""Uplift :math:`\mu_1(x) - \mu_0(x)`, shape (n,)."""
        return self.predict_moment(x, "converted_treated") - self.predict_moment(x, "converted_untreated")

    def predict_reward(
        self, x: ArrayLike, scenario: str = "coupon", cost: float = PAPER.cost
    ) -> NDArray[np.float64]:
        """See :meth:`MomentEstimator.predict_reward`."""
        check_choice("scenario", scenario, SCENARIOS)
        cost = check_cost(cost)
        return (1 + cost) * self.predict_cate(x) - cost


class IPS(OR):
    """As :class:`OR`, both means fitted to inverse-propensity weighted outcomes."""

    family = "IPS"


class DR(OR):
    """As :class:`OR`, both means fitted to doubly robust (AIPW) pseudo-outcomes."""

    family = "DR"


class ORNet(OR):
    r"""Uplift whose cost is paid on take-up: :math:`(1+c)(\mu_1 - \mu_0) - c\,w`, by outcome regression.

    What is paid for is observed under treatment: in the coupon scenario a used coupon,
    :math:`w(x) = P(C{=}1, Y{=}1|T{=}1, x)`; in the cash scenario a collected incentive,
    :math:`w(x) = P(C{=}1|T{=}1, x)`. No stratum is asked for, and neither exclusion nor monotonicity are
    used. Under both, this is the expected reward of the pair: it equals that of :class:`CFOR` with
    ``cell_form="joint"``, for any values of the moments.
    """

    uses = tuple(MOMENTS)

    def predict_reward(
        self, x: ArrayLike, scenario: str = "coupon", cost: float = PAPER.cost
    ) -> NDArray[np.float64]:
        """See :meth:`MomentEstimator.predict_reward`."""
        paid = {"coupon": "collected_and_converted_treated", "cash": "collected_treated"}
        cost = check_cost(cost)
        return (1 + cost) * self.predict_cate(x) - cost * self.predict_moment(
            x, paid[check_choice("scenario", scenario, SCENARIOS)]
        )


class IPSNet(ORNet):
    """As :class:`ORNet`, moments fitted to inverse-propensity weighted outcomes."""

    family = "IPS"


class DRNet(ORNet):
    """As :class:`ORNet`, moments fitted to doubly robust (AIPW) pseudo-outcomes."""

    family = "DR"


class CFOR(OR):
    r"""CF-OR: strata probabilities from the eight cell equations, by outcome regression.

    Parameters
    ----------
    config, propensity_clip, device, seed, progress
        As in :class:`MomentEstimator`.
    cell_form : {"joint", "product"}
        Where the identification asks for :math:`P(C{=}1,Y{=}1|T{=}1,x)`: "joint" fits it (the paper's
        Section 3.2); "product" takes P(C=1|T=1,x) P(Y=1|T=1,x) and always fits take-up by outcome
        regression, as the authors' code does, which is right only if C and Y are
        independent given T = 1 and x.
    """

    def __init__(
        self,
        *,
        config: FitConfig = PAPER.nuisance,
        propensity_clip: tuple[float, float] = PAPER.propensity_clip,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
        cell_form: str = "joint",
    ) -> None:
        super().__init__(
            config=config, propensity_clip=propensity_clip, device=device, seed=seed, progress=progress
        )
        self.cell_form = cell_form

    def _fit_moments(self, nuisances: PairNuisances) -> dict[str, AdditiveNetwork]:
        form = check_choice("cell_form", self.cell_form, CELL_FORMS)
        if form == "joint":
            return {name: nuisances.moment(self.family, name) for name in MOMENTS}
        fitted = {name: nuisances.moment(self.family, name) for name in self.uses}
        return fitted | {"collected_treated": nuisances.moment("OR", "collected_treated")}

    def predict_strata(self, x: ArrayLike) -> NDArray[np.float64]:
        """Strata probabilities at pairs x.

        Returns
        -------
        ndarray of shape (n, 5), float64
            Rows sum to 1. Entries can be negative where the fitted moments violate the testable implications.
        """
        check_is_fitted(self, "moments_")
        moments = {name: self.predict_moment(x, name) for name in self.moments_}
        if "collected_and_converted_treated" not in moments:  # fitted in product form
            moments["collected_and_converted_treated"] = (
                moments["collected_treated"] * moments["converted_treated"]
            )
        return strata_from_moments(*(moments[name] for name in MOMENTS))

    def predict_reward(
        self, x: ArrayLike, scenario: str = "coupon", cost: float = PAPER.cost
    ) -> NDArray[np.float64]:
        """See :meth:`MomentEstimator.predict_reward`."""
        return expected_reward(self.predict_strata(x), scenario, cost)


class CFIPS(CFOR):
    """CF-IPS: as :class:`CFOR`, moments fitted to inverse-propensity weighted outcomes."""

    family = "IPS"


class CFDR(CFOR):
    """CF-DR: as :class:`CFOR`, moments fitted to doubly robust (AIPW) pseudo-outcomes."""

    family = "DR"
