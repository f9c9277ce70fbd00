"""Study: a training log and test pairs whose true strata are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfmtl_lib.errors import StudyError
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.strata import observe

SIMULATED_OUTCOME = "simulated: outcomes follow from the strata, without a threshold"
"""Description of outcomes that are not made from ratings."""


@dataclass(frozen=True, eq=False)
class LabelledPairs:
    """Pairs with their stratum and the propensity that would draw their treatment, which no log shows.

    Attributes
    ----------
    x : ndarray of shape (n, 2), int64
        User and item ids.
    stratum : ndarray of shape (n,), int8
        Index into :data:`~cfmtl_lib.strata.STRATA`.
    propensity : ndarray of shape (n,), float64
        P(T=1 | x), strictly between 0 and 1.
    strata_probability : ndarray of shape (n, 5), float64, or None
        P(stratum | x) where a simulation knows it. Semi-synthetic strata are labels, not draws.
    """

    x: NDArray[np.int64]
    stratum: NDArray[np.int8]
    propensity: NDArray[np.float64]
    strata_probability: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.stratum)

    def rows(self, index: NDArray) -> LabelledPairs:
        """Return the pairs at these positions."""
        p = self.strata_probability
        return LabelledPairs(
            self.x.take(index, axis=0),  # several times faster than x[index]
            self.stratum.take(index),
            self.propensity.take(index),
            None if p is None else p.take(index, axis=0),
        )


@dataclass(frozen=True, eq=False)
class Study:
    """Data of one experiment.

    Attributes
    ----------
    train : IncentiveLog
        Training log, all that an estimator may see. Its ``propensity`` is the true one; the paper's
        estimators ignore it.
    test : LabelledPairs
        Test pairs, on which policies are evaluated.
    train_truth : LabelledPairs
        Truth behind the rows of ``train``, for teaching and tests.
    dataset, labelling, construction : str
        Names of the data set, the labelling and the construction.
    seed : int
        Seed of all random draws of the construction.
    fingerprint : str
        SHA-256 of the ratings, or of the simulation's settings.
    outcome_rule : str
        Description of the outcome, with the share of ratings above the threshold.
    """

    train: IncentiveLog
    test: LabelledPairs
    train_truth: LabelledPairs
    dataset: str
    labelling: str
    construction: str
    seed: int
    fingerprint: str
    outcome_rule: str = SIMULATED_OUTCOME

    def __repr__(self) -> str:
        return (
            f"Study({self.dataset!r}, labelling={self.labelling!r}, construction={self.construction!r}, "
            f"seed={self.seed}: {len(self.train):,} training rows, {len(self.test):,} test pairs)"
        )


def split_and_treat(
    pairs: LabelledPairs,
    *,
    n_users: int,
    n_items: int,
    train_share: float,
    rng: np.random.Generator,
    dataset: str,
    labelling: str,
    construction: str,
    seed: int,
    fingerprint: str,
    outcome_rule: str = SIMULATED_OUTCOME,
) -> Study:
    """Shuffle, split, draw T ~ Bernoulli(propensity) on the training part and show C(T), Y(T) only.

    Raises
    ------
    StudyError
        If an arm is empty after the draw.
    """
    order = rng.permutation(len(pairs))
    n_train = int(train_share * len(pairs))
    truth, test = pairs.rows(order[:n_train]), pairs.rows(order[n_train:])
    treated = (rng.random(n_train) < truth.propensity).astype(np.int8)
    if not 0 < treated.sum() < n_train:
        raise StudyError(
            "drawn treatment",
            expected="treated and untreated training pairs",
            found=f"{int(treated.sum())} treated of {n_train}",
            advice="Use more pairs, or propensities further from 0 and 1.",
        )
    collected, converted = observe(truth.stratum, treated)
    log = IncentiveLog(
        truth.x,
        treated,
        collected,
        converted,
        propensity=truth.propensity,
        n_users=n_users,
        n_items=n_items,
    )
    return Study(
        train=log,
        test=test,
        train_truth=truth,
        dataset=dataset,
        labelling=labelling,
        construction=construction,
        seed=seed,
        fingerprint=fingerprint,
        outcome_rule=outcome_rule,
    )
