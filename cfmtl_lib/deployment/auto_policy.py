"""A policy from a log in one call: models compared, recalibrated, and chosen by what they would earn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from textwrap import fill
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from cfmtl_lib.checks import check_count, check_flag, check_number, check_seed, describe
from cfmtl_lib.deployment.candidate_fits import (
    CandidateFits,
    check_candidates,
    default_candidates,
    fit_by_fold,
    too_little,
)
from cfmtl_lib.deployment.policy_choice import (
    MEASURES,
    NOBODY,
    HeldOutRewards,
    choose,
    comparison_row,
    earned_by,
    options_of,
    policy_of_choice,
)
from cfmtl_lib.deployment.reward_calibration import RewardCalibration
from cfmtl_lib.errors import InputError
from cfmtl_lib.estimators.base import LogEstimator, as_log
from cfmtl_lib.logs.encoding import FeatureRows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.parquet_log import ParquetLog
from cfmtl_lib.nuisances.cross_fitting import crossfit, fold_of_rows
from cfmtl_lib.nuisances.moments import LogNuisances
from cfmtl_lib.policy.allocation import allocate, check_share
from cfmtl_lib.policy.arguments import check_cost
from cfmtl_lib.policy.rewards import payment_of
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.value.calibration import members_of
from cfmtl_lib.value.estimates import Estimate, mean_estimate, policy_value
from cfmtl_lib.value.scores import unit_scores

WORTH = ("scenario", "cost", "conversion_value")
"""Parameters that the reward is made of."""


class AutoPolicy(LogEstimator):
    r"""Policy that is chosen on a log, with an honest value, or the advice to treat nobody.

    1. Each candidate is fitted without each fold, and predicts the fold.
    2. Predictions are recalibrated by the doubly robust scores of the other folds
       (:mod:`~cfmtl_lib.deployment.reward_calibration`). So a predicted reward above 0 means it.
    3. The policies of the candidates, and of their non-negative combination (the stack), are valued out of
       fold (:mod:`~cfmtl_lib.deployment.policy_choice`). The stack is chosen, unless the best candidate earns
       more than it by two paired standard errors.
    4. The whole procedure is valued fold by fold, each with calibration and choice by the others' scores. If
       that value is not above 0 by ``errors`` standard errors, the recommended policy is to treat nobody.

    Parameters
    ----------
    scenario : {"coupon", "cash"}
    cost : float
        Cost c >= 0 of one incentive, in units of one conversion net of it.
    conversion_value : float, optional
        Value of a conversion before the incentive is paid, in the units of ``cost``; see
        :func:`~cfmtl_lib.policy.rewards.expected_reward`.
    budget : float
        Largest share of rows that may be treated, in [0, 1].
    candidates : mapping of str to estimator, optional
        Unfitted models by name, the simplest first. The default is
        :func:`~cfmtl_lib.deployment.candidate_fits.default_candidates`.
    folds : int
        Number of folds, at least 3. They are stratified by treatment and cell; rows of one cluster of the log
        stay together.
    errors : float
        Number of standard errors by which the policy has to earn more than nobody's, at least 0.
    stack : bool
        Whether to combine the candidates. If not, the candidate that earns most is chosen, of equal ones the
        first.
    device : str or torch.device
        Device of the default candidates' networks.
    seed : int
        Seed of folds, nuisances, default candidates, and of the order among equal rewards.
    progress : bool
        Whether to report progress on stderr.

    Attributes
    ----------
    chosen_ : str
        "stack", the name of a candidate, or "nobody" where nothing could be fitted.
    recommends_nobody_ : bool
        Whether to treat nobody. :meth:`policy` then does, and no predicted reward is above 0.
    reason_ : str
        Reason of the recommendation.
    value_ : Estimate
        Value of ``out_of_fold_policy_`` against treating nobody: of the procedure. A row enters neither the
        fits that predict it nor the scores that calibrate and choose for it.
    out_of_fold_policy_ : ndarray of shape (n,), bool
        Policy of the procedure at the rows of the log, also where it is not recommended.
    out_of_fold_reward_ : ndarray of shape (n,), float64
        Calibrated reward of the chosen candidate, each row's by models and calibrations without its fold.
    table_ : DataFrame
        A row for each candidate, the stack, treating at random and nobody. ``value`` and ``standard_error``
        are those of its own policy out of fold. ``behind`` is the value of the chosen one minus it, with the
        paired ``behind_error``. ``log_likelihood`` of held-out rows is in nats (NaN where no strata are
        identified), ``weight`` the slope of its predictions in the recalibrated reward. ``note`` says why a
        candidate could not be fitted. The value of the chosen row is the largest of several: use ``value_``.
    models_ : dict of str to list of fitted estimators
        Fits of the chosen candidates, one without each fold. Predictions are means over them: they vary less
        than those of one fit, and they are what was valued and calibrated.
    parts_ : tuple of str
        Names of the candidates in ``models_``, in the order of the weights of ``calibration_``.
    calibration_ : RewardCalibration or None
    nuisances_ : LogNuisances
        Nuisances of the scores. This and the arrays by row are not in a saved model.
    schema_, n_features_in_, feature_names_in_
        See :class:`~cfmtl_lib.estimators.base.LogEstimator`.

    Notes
    -----
    The choice rests on unconfoundedness and overlap, as the scores do, and on neither exclusion nor
    monotonicity. On pairs, the scores come from the paper's networks unless ``nuisances`` are given to
    ``fit``; where these are far off, so is the choice. Doubly robust values of policies: Athey and Wager
    (2021), "Policy learning with observational data". Combination of learners by held-out predictions: van
    der Laan, Polley and Hubbard (2007), "Super learner".

    Examples
    --------
    >>> import cfmtl_lib as cf
    >>> from sklearn.linear_model import LogisticRegression
    >>> study = cf.simulated_features(4000, seed=2)
    >>> lines = cf.CFOR(outcome=LogisticRegression())
    >>> auto = AutoPolicy(cost=0.4, candidates={"lines": lines, "response": cf.Naive()})
    >>> auto.fit(study.log, nuisances=study.true_nuisances).chosen_
    'stack'
    >>> auto.policy(study.log.x[:5]).dtype
    dtype('bool')
    """

    calibration_: RewardCalibration | None
    value_: Estimate

    fits_amounts = True  # rewards are recalibrated on scores in money
    not_saved = ("out_of_fold_policy_", "out_of_fold_reward_", "nuisances_")

    def __init__(
        self,
        *,
        scenario: str = "coupon",
        cost: float,
        conversion_value: float | None = None,
        budget: float = PAPER.budget,
        candidates: Mapping[str, LogEstimator] | None = None,
        folds: int = 5,
        errors: float = 1.0,
        stack: bool = True,
        device: str = "auto",
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        self.scenario = scenario
        self.cost = cost
        self.conversion_value = conversion_value
        self.budget = budget
        self.candidates = candidates
        self.folds = folds
        self.errors = errors
        self.stack = stack
        self.device = device
        self.seed = seed
        self.progress = progress

    def fit(
        self,
        x: IncentiveLog | FeatureRows,
        y: ArrayLike | None = None,
        *,
        nuisances: LogNuisances | None = None,
        pairs: bool | None = None,
    ) -> Self:
        """Compare the candidates on a log and choose a policy.

        Parameters
        ----------
        x : IncentiveLog, or features
        y : array_like of shape (n, 3), 0/1, optional
            Incentive given, collected, converted, beside features; see
            :meth:`~cfmtl_lib.logs.incentive_log.IncentiveLog.from_xy`.
        nuisances : LogNuisances, optional
            Nuisances of the scores at the rows of the log. If left out, those of
            :func:`~cfmtl_lib.nuisances.cross_fitting.crossfit` on the same folds, with the known propensity
            of the log if it has one.
        pairs : bool, optional
            Whether integers in two columns are user and item ids; has to be given for them beside y.

        Returns
        -------
        self

        Raises
        ------
        LogError
            If x and y make no log in memory.
        InputError
            If a parameter is bad, or nuisances do not fit the log.
        """
        self._check()
        log = as_log(x, y, pairs)
        if isinstance(log, ParquetLog):
            raise InputError(
                "x",
                expected="a log in memory",
                found="a ParquetLog",
                advice="Load a part of it: a choice between models needs fewer rows than the final fit.",
            )
        self.remember_input(log)
        made = default_candidates(log, device=self.device, seed=self.seed)
        candidates = made if self.candidates is None else dict(self.candidates)
        problem = too_little(log, self.folds)
        if problem:
            return self._give_up(log, dict.fromkeys(candidates, "not fitted"), problem)
        fold = fold_of_rows(log, self.folds, self.seed)
        if nuisances is None:
            nuisances = crossfit(log, folds=fold, seed=self.seed, progress=self.progress)
        self.nuisances_ = nuisances
        scores = unit_scores(log, nuisances).reward(**self._worth())
        fits = fit_by_fold(candidates, log, fold, **self._worth(), progress=self.progress)
        if not fits.predicted:
            return self._give_up(log, fits.notes, "no candidate could be fitted")
        member = members_of(log.clusters(None), log)
        held_out = HeldOutRewards(fits.predicted, scores, fold, check_share(self.budget), member, self.seed)
        options = options_of(list(fits.predicted), self.stack)
        self._choose(log, nuisances, held_out, options)
        self._keep(fits, held_out, options)
        return self

    def _worth(self) -> dict[str, Any]:
        """Return what the reward is made of: scenario, cost and value."""
        return {name: getattr(self, name) for name in WORTH}

    def _check(self) -> None:
        payment_of(self.scenario)
        check_cost(self.cost)
        if self.conversion_value is not None:
            check_cost(self.conversion_value, "conversion_value")
        check_share(self.budget)
        check_count(self.folds, "folds", least=3)
        check_number(self.errors, "errors", low=0)
        for name in ("stack", "progress"):
            check_flag(getattr(self, name), name)
        check_seed(self.seed)
        if self.candidates is not None:
            check_candidates(self.candidates)

    def _choose(
        self,
        log: IncentiveLog,
        nuisances: LogNuisances,
        held_out: HeldOutRewards,
        options: Mapping[str, tuple[str, ...]],
    ) -> None:
        self.chosen_ = choose(held_out, options)
        self.out_of_fold_policy_ = policy_of_choice(held_out, options)
        self.out_of_fold_reward_ = held_out.calibrated(options[self.chosen_])
        value = policy_value(self.out_of_fold_policy_, log, nuisances, **self._worth())
        self.value_ = value
        needed = float(self.errors) * value.standard_error
        self.recommends_nobody_ = not value.value > needed
        earns = f"{value.value:.4f} ± {value.standard_error:.4f} {value.unit} a row out of fold"
        if self.recommends_nobody_:
            self.reason_ = (
                f"no policy earns more than treating nobody by {self.errors:g} standard errors: that of the "
                f"best candidate earns {earns}"
            )
        else:
            self.reason_ = f"its policy earns {earns}, more than treating nobody"

    def _keep(
        self, fits: CandidateFits, held_out: HeldOutRewards, options: Mapping[str, tuple[str, ...]]
    ) -> None:
        """Keep the fits that the policy needs, and what is to be told about all."""
        parts = options[self.chosen_]
        fitted = held_out.calibration(parts)
        weights = dict(zip(parts, fitted.weights.tolist(), strict=True))
        used = [k for k, weight in enumerate(weights.values()) if weight > 0]
        self.calibration_ = RewardCalibration(fitted.mean, fitted.weights[used], fitted.centre[used])
        self.parts_ = tuple(parts[k] for k in used)
        self.models_ = {name: fits.models[name] for name in self.parts_}
        earned = earned_by(held_out, options, self.chosen_)
        self.comparison_ = [
            comparison_row(name, earned.get(name), fits.log_likelihood, weights, fits.notes)
            for name in (*fits.notes, *earned)
        ]

    def _give_up(self, log: IncentiveLog, notes: Mapping[str, str], problem: str) -> Self:
        """Recommend nobody, as nothing can be learnt or valued."""
        self.chosen_, self.recommends_nobody_, self.reason_ = NOBODY, True, problem
        self.out_of_fold_policy_ = np.zeros(len(log), dtype=bool)
        self.out_of_fold_reward_ = np.zeros(len(log))
        self.value_ = replace(mean_estimate(np.zeros(len(log))), cautions=(problem,))
        self.parts_, self.models_, self.calibration_ = (), {}, None
        self.comparison_ = [comparison_row(name, notes=notes) for name in notes]
        self.comparison_ += [comparison_row(NOBODY, dict.fromkeys(MEASURES, 0.0))]
        return self

    @property
    def table_(self) -> pd.DataFrame:
        """Values of the candidates; see the attributes of the class."""
        check_is_fitted(self, "comparison_")
        columns = [*MEASURES, "log_likelihood", "weight", "note"]  # a saved model forgets their order
        return pd.DataFrame(self.comparison_).set_index("policy")[columns]

    def predict_reward(
        self,
        x: IncentiveLog | FeatureRows,
        scenario: str | None = None,
        cost: float | ArrayLike | None = None,
        conversion_value: float | ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Predict the recalibrated reward of treating each row; never above 0 where nobody is recommended.

        Parameters
        ----------
        x : IncentiveLog, array_like, DataFrame or (pairs, features)
            The n rows, of the same kind as in the log of ``fit``.
        scenario, cost, conversion_value
            Those of the policy, or left out: for others another learner may be the best.

        Returns
        -------
        ndarray of shape (n,), float64
            Rewards in the unit of ``value_``.

        Raises
        ------
        NotFittedError
            If the model is not fitted.
        InputError
            If x is not what the model was fitted on, or scenario, cost or value are others.
        """
        check_is_fitted(self, "comparison_")
        for name, value in zip(WORTH, (scenario, cost, conversion_value), strict=True):
            if value is not None and not np.array_equal(value, getattr(self, name)):
                raise InputError(
                    name,
                    expected=f"{getattr(self, name)!r}, for which the policy was chosen",
                    found=describe(value),
                    advice="Fit an AutoPolicy for it: another learner may be the best there.",
                )
        rows = self.schema_.matrix(x)
        if self.calibration_ is None:
            return np.zeros(len(rows))
        worth = [value for value in self._worth().values() if value is not None]
        means = [
            np.mean([m.predict_reward(rows, *worth) for m in self.models_[name]], axis=0)
            for name in self.parts_
        ]
        predicted = np.stack(means, axis=1) if means else np.zeros((len(rows), 0))
        reward = self.calibration_.predict(predicted)
        return np.minimum(reward, 0.0) if self.recommends_nobody_ else reward

    def policy(self, x: IncentiveLog | FeatureRows) -> NDArray[np.bool_]:
        """Choose the rows to treat, the largest rewards above 0 within the budget: (n,), bool."""
        return allocate(self.predict_reward(x), self.budget, seed=self.seed)

    def predict(
        self,
        x: IncentiveLog | FeatureRows,
        scenario: str | None = None,
        cost: float | ArrayLike | None = None,
        conversion_value: float | ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """Predict the recalibrated reward, under scikit-learn's name; see :meth:`predict_reward`."""
        return self.predict_reward(self._known(x), scenario, cost, conversion_value)

    def score(self, x: IncentiveLog | FeatureRows, y: ArrayLike | None = None) -> float:
        """Estimate the value of the policy on rows that the model was not fitted to, a row."""
        check_is_fitted(self, "comparison_")
        rows = self._rows_with_outcomes(x, y)
        nuisances = crossfit(rows, folds=self.folds, seed=self.seed)
        return policy_value(self.policy(rows), rows, nuisances, **self._worth()).value

    def summary(self) -> str:
        """Say in words what was chosen, what it earns, and by how much it leads each other policy."""
        check_is_fitted(self, "comparison_")
        best = f"nobody (best candidate: {self.chosen_})" if self.recommends_nobody_ else self.chosen_
        lines = [f"Recommended: {best}, because {self.reason_}.", f"Value, choice included: {self.value_}."]
        for row in self.comparison_:
            name = row["policy"]
            if row["note"]:
                lines.append(f"  {name}: not compared ({row['note']})")
            elif name != self.chosen_:
                lines.append(f"  against {name}: {row['behind']:+.4f} ± {row['behind_error']:.4f}")
        return "\n".join(fill(line, 74, subsequent_indent="    ") for line in lines)
