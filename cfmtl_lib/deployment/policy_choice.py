"""Choice between the policies of several models by what they earn on rows that the models have not seen.

A model predicts a fold from the other folds. A calibration of a fold's predictions is fitted to the scores of
the other folds. The value of the procedure as a whole comes from a second round. For each fold, calibration
and choice are repeated with the scores of the other folds, and the winner's policy is valued on the fold. So
the value does not profit from having been the largest of several. One trace of a fold stays: the fits that
predict the other folds have seen it. A test looks for a bias; fits nested twice would cost as many times more
as there are folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfmtl_lib.deployment.reward_calibration import RewardCalibration, calibrate_rewards
from cfmtl_lib.policy.allocation import allocate
from cfmtl_lib.value.estimates import Estimate, mean_estimate

STACK = "stack"
"""Name of the combination of all candidates."""

NOBODY = "nobody"
"""Name of the policy that treats nobody."""

AT_RANDOM = "at random"
"""Name of the policy that treats a share of the rows, the budget, at random."""

LEAD_OF_ONE = 2.0
"""Number of paired standard errors by which one candidate has to lead the stack to be chosen instead. By
chance alone, the largest of several leads is often above one."""

RESERVED = (STACK, AT_RANDOM, NOBODY)
"""Names that no candidate can have."""


MEASURES = ("value", "standard_error", "behind", "behind_error", "share_treated")
"""What :func:`earned_by` tells of a policy."""


@dataclass(frozen=True, eq=False)
class HeldOutRewards:
    """Rewards that models predict for rows that they have not seen, beside scores of the true reward.

    Attributes
    ----------
    predicted : dict of str to ndarray of shape (n,), float64
        Predicted rewards by model. Each row's comes from a fit without its fold.
    scores : ndarray of shape (n,), float64
        Doubly robust scores of the reward.
    fold : ndarray of shape (n,), int64
    budget : float
        Largest share of rows that are treated, within each fold.
    member : ndarray of shape (n,), int64, optional
        Number of each row's cluster.
    seed : int
        Seed of the order among equal rewards.
    """

    predicted: Mapping[str, NDArray[np.float64]]
    scores: NDArray[np.float64]
    fold: NDArray[np.int64]
    budget: float
    member: NDArray[np.int64] | None = None
    seed: int = 0

    def calibration(self, parts: Sequence[str], rows: NDArray[np.bool_] | None = None) -> RewardCalibration:
        """Fit the calibration of one model, or of the combination of several, to some of the rows."""
        at = np.arange(len(self.scores)) if rows is None else np.flatnonzero(rows)
        member = None if self.member is None else self.member[at]
        return calibrate_rewards(self._columns(parts, at), self.scores[at], member=member)

    def _columns(self, parts: Sequence[str], at: NDArray[np.intp]) -> NDArray[np.float64]:
        return np.stack([self.predicted[name][at] for name in parts], axis=1)

    def rewards(
        self, parts: Sequence[str], rows: NDArray[np.bool_], outside: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Calibrate the rewards of ``rows`` by the rows ``outside`` them; one for each of ``rows``."""
        return self.calibration(parts, outside).predict(self._columns(parts, np.flatnonzero(rows)))

    def calibrated(self, parts: Sequence[str], among: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Calibrate the rewards of each fold by the others; NaN outside ``among``, shape (n,)."""
        inside = np.ones(len(self.scores), dtype=bool) if among is None else among
        found = np.full(len(self.scores), np.nan)
        for k in np.unique(self.fold[inside]):
            rows = inside & (self.fold == k)
            found[rows] = self.rewards(parts, rows, inside & (self.fold != k))
        return found

    def policy(self, parts: Sequence[str], among: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
        """Return the policy of calibrated rewards, fold by fold; False outside ``among``, shape (n,)."""
        reward = self.calibrated(parts, among)
        treat = np.zeros(len(reward), dtype=bool)
        for k in np.unique(self.fold):
            rows = (self.fold == k) & np.isfinite(reward)
            treat[rows] = allocate(reward[rows], self.budget, seed=self.seed)
        return treat

    def estimate(self, values: NDArray[np.float64], among: NDArray[np.bool_] | None = None) -> Estimate:
        """Estimate the mean of one number for each row, or for each of some rows, with its error."""
        at = slice(None) if among is None else np.flatnonzero(among)
        return mean_estimate(values[at], clusters=None if self.member is None else self.member[at])


def options_of(names: Sequence[str], stack: bool) -> dict[str, tuple[str, ...]]:
    """Name what can be chosen, the simplest first, with the models that each consists of.

    Examples
    --------
    >>> options_of(["logistic", "trees"], stack=True)
    {'logistic': ('logistic',), 'trees': ('trees',), 'stack': ('logistic', 'trees')}
    """
    options: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
    return options | {STACK: tuple(names)} if stack and len(names) > 1 else options


def choose(
    held_out: HeldOutRewards, options: Mapping[str, Sequence[str]], among: NDArray[np.bool_] | None = None
) -> str:
    """Choose the policy by what the options earn on held-out rows.

    The stack is chosen unless the best single candidate earns more than it by :data:`LEAD_OF_ONE` paired
    standard errors. It needs no choice between its parts, so that no candidate wins by luck alone. Without a
    stack, the candidate that earns most is chosen; of equal ones, the simplest.

    Parameters
    ----------
    held_out : HeldOutRewards
    options : mapping of str to sequence of str
        See :func:`options_of`.
    among : ndarray of shape (n,), bool, optional
        Rows that may be used; all if left out.

    Returns
    -------
    str
    """
    policies = {name: held_out.policy(parts, among) for name, parts in options.items()}
    earned = {name: float((treat * held_out.scores).sum()) for name, treat in policies.items()}
    best = max((name for name in options if name != STACK), key=earned.__getitem__)
    if STACK not in options:
        return best
    more = policies[best].astype(np.float64) - policies[STACK]
    lead = held_out.estimate(more * held_out.scores, among)
    return best if lead.value > LEAD_OF_ONE * lead.standard_error else STACK


def policy_of_choice(held_out: HeldOutRewards, options: Mapping[str, Sequence[str]]) -> NDArray[np.bool_]:
    """Return the policy of the whole procedure: for each fold, that of the winner on the other folds."""
    treat = np.zeros(len(held_out.scores), dtype=bool)
    for k in np.unique(held_out.fold):
        rows = held_out.fold == k
        parts = options[choose(held_out, options, ~rows)]
        treat[rows] = allocate(held_out.rewards(parts, rows, ~rows), held_out.budget, seed=held_out.seed)
    return treat


def earned_by(
    held_out: HeldOutRewards, options: Mapping[str, Sequence[str]], chosen: str
) -> dict[str, dict[str, float]]:
    """Value each option's policy out of fold, against nobody and against the chosen one.

    Parameters
    ----------
    held_out : HeldOutRewards
    options : mapping of str to sequence of str
    chosen : str

    Returns
    -------
    dict of str to dict of str to float
        Measures of each option, of treating at random and of nobody: ``value`` against nobody,
        ``standard_error``, ``behind`` (value of the chosen one minus this), ``behind_error`` (paired) and
        ``share_treated``.
    """
    n = len(held_out.scores)
    policies = {name: held_out.policy(parts).astype(np.float64) for name, parts in options.items()}
    policies |= {AT_RANDOM: np.full(n, held_out.budget), NOBODY: np.zeros(n)}
    found = {}
    for name, policy in policies.items():
        value = held_out.estimate(policy * held_out.scores)
        behind = held_out.estimate((policies[chosen] - policy) * held_out.scores)
        numbers = (value.value, value.standard_error, behind.value, behind.standard_error, policy.mean())
        found[name] = dict(zip(MEASURES, map(float, numbers), strict=True))
    return found


def comparison_row(
    name: str,
    measures: Mapping[str, float] | None = None,
    log_likelihood: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
    notes: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Make a row of the table of candidates, NaN where something is not known."""
    return {
        "policy": name,
        **(dict.fromkeys(MEASURES, np.nan) if measures is None else measures),
        "log_likelihood": (log_likelihood or {}).get(name, np.nan),
        "weight": (weights or {}).get(name, np.nan),
        "note": (notes or {}).get(name, ""),
    }
