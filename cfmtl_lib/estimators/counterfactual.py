r"""CF-OR, CF-IPS, CF-DR: the five strata from the moments of their CATE twins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.errors import check_choice
from cfmtl_lib.estimators.base import StrataEstimator
from cfmtl_lib.estimators.baselines import OR
from cfmtl_lib.logs.encoding import FeatureRows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.nuisances.choice import FittedMoment, Nuisances
from cfmtl_lib.nuisances.moments import MOMENTS
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.strata import strata_from_moments

CELL_FORMS = ("joint", "product")


class CFOR(StrataEstimator, OR, method="CF-OR"):
    r"""CF-OR: strata probabilities from the eight cell equations, by outcome regression.

    Parameters
    ----------
    config, propensity_clip, outcome, propensity, pseudo_outcome, folds, device, seed, progress
        See :class:`~cfmtl_lib.estimators.baselines.MomentEstimator`.
    cell_form : {"joint", "product"}
        Source of :math:`P(C{=}1,Y{=}1|T{=}1,x)` in the identification. "joint" fits it (the paper's Section
        3.2). "product" takes :math:`P(C{=}1|T{=}1,x) P(Y{=}1|T{=}1,x)`, as the authors' code does. It always
        fits take-up by outcome regression. The product is right only if C and Y are independent given T = 1
        and x.
    """

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
        cell_form: str = "joint",
    ) -> None:
        super().__init__(
            config=config,
            propensity_clip=propensity_clip,
            outcome=outcome,
            propensity=propensity,
            pseudo_outcome=pseudo_outcome,
            folds=folds,
            device=device,
            seed=seed,
            progress=progress,
        )
        self.cell_form = cell_form

    def _fit_moments(self, nuisances: Nuisances) -> dict[str, FittedMoment]:
        form = check_choice("cell_form", self.cell_form, CELL_FORMS)
        if form == "joint":
            return {name: nuisances.moment(self.family, name) for name in MOMENTS}
        fitted = {name: nuisances.moment(self.family, name) for name in self.uses}
        return fitted | {"collected_treated": nuisances.moment("OR", "collected_treated")}

    def predict_strata(self, x: IncentiveLog | FeatureRows) -> NDArray[np.float64]:
        """Predict strata probabilities at x.

        Returns
        -------
        ndarray of shape (n, 5), float64
            Strata probabilities; rows sum to 1. Entries can be negative where the fitted moments violate the
            testable implications.
        """
        check_is_fitted(self, "moments_")
        moments = {name: self.predict_moment(x, name) for name in self.moments_}
        if "collected_and_converted_treated" not in moments:  # fitted in product form
            moments["collected_and_converted_treated"] = (
                moments["collected_treated"] * moments["converted_treated"]
            )
        return strata_from_moments(*(moments[name] for name in MOMENTS))


class CFIPS(CFOR, method="CF-IPS"):
    """CF-IPS: :class:`CFOR` with moments fitted to inverse-propensity weighted outcomes."""

    family = "IPS"


class CFDR(CFOR, method="CF-DR"):
    """CF-DR: :class:`CFOR` with moments fitted to doubly robust (AIPW) pseudo-outcomes."""

    family = "DR"
