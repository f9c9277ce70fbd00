"""Every setting of the published experiments, in one object.

The sources are the KDD 2023 paper (DOI 10.1145/3580305.3599550), the authors' code, and the
reproduction report. The report changed the code and printed Tables 4-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.losses import CellWeights

LABELLINGS = ("code", "text")
"""Rules that turn halves of the score ranking into strata: that of the authors' code, that of the text."""

CONSTRUCTIONS = ("authors", "document")
"""Sources of the losses of the two networks of the construction: authors' code, reproduction report."""


@dataclass(frozen=True)
class ConstructionFits:
    """Settings of the two fits behind a semi-synthetic study.

    Parameters
    ----------
    labelling : FitConfig
        Fit of the NCF whose score orders pairs for the strata.
    assignment : FitConfig
        Fit of the MF whose score is the propensity that draws T.
    """

    labelling: FitConfig
    assignment: FitConfig


def _constructions() -> Mapping[str, ConstructionFits]:
    def fits(labelling_loss: str, assignment_loss: str) -> ConstructionFits:
        return ConstructionFits(
            labelling=FitConfig(loss=labelling_loss, tolerance=1e-5),
            assignment=FitConfig(loss=assignment_loss, tolerance=1e-5, batch_size=2048),
        )

    return {
        "authors": fits("squared_error", "cross_entropy"),
        "document": fits("cross_entropy", "squared_error"),
    }


@dataclass(frozen=True)
class Protocol:
    """Settings of the published experiments. The defaults are the published ones.

    Parameters
    ----------
    construction : mapping of str to ConstructionFits
        Fits of the data construction, by name of the construction.
    unobserved_share : float
        Number of unobserved pairs drawn, as a share of the observed ones.
    train_share : float
        Share of all pairs in the training log; the rest is the test set.
    nuisance : FitConfig
        Fit of each outcome, take-up and propensity network of the baselines.
    propensity_clip : (float, float)
        Bounds of the estimated propensity in IPS and DR.
    joint : FitConfig
        Fit of CF-MTL, and fine-tuning of CF-MTL-v1.
    joint_weights, two_stage_weights : CellWeights
        Loss weights of CF-MTL and CF-MTL-v1.
    propensity_weight : float
        Weight of the squared-error propensity loss in CF-MTL (the paper's 1/lambda).
    joint_propensity_floor : float
        Lower bound of the propensity inside the cell losses of CF-MTL and CF-MTL-v1.
    pretraining_propensity, pretraining_outcome : FitConfig
        First two fits of CF-MTL-v1, by the report's listing (its prose says the reverse).
    cost, budget : float
        Cost of an incentive, in conversions, and largest share of test pairs treated.
    """

    construction: Mapping[str, ConstructionFits] = field(default_factory=_constructions)
    unobserved_share: float = 0.8
    train_share: float = 0.7
    nuisance: FitConfig = field(default_factory=FitConfig)
    propensity_clip: tuple[float, float] = (0.1, 0.9)
    joint: FitConfig = field(default_factory=lambda: FitConfig(tolerance=1e-5))
    joint_weights: CellWeights = field(default_factory=lambda: CellWeights(5, 1, 1, 5, 5, 5))
    two_stage_weights: CellWeights = field(default_factory=lambda: CellWeights(1, 1, 1, 5, 10, 10))
    propensity_weight: float = 0.5
    joint_propensity_floor: float = 0.1
    pretraining_propensity: FitConfig = field(default_factory=lambda: FitConfig(loss="cross_entropy"))
    pretraining_outcome: FitConfig = field(default_factory=lambda: FitConfig(loss="squared_error"))
    cost: float = 0.4
    budget: float = 0.4


PAPER = Protocol()
"""Published settings, the source of every default of the library."""
