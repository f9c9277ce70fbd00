r"""Effects on the treated (ATT): shares and values where only the treated have counterparts.

Where some units are hardly ever treated, averages over all units rest on extrapolation. Averages over the
treated need overlap in one direction only: for each treated unit, untreated ones that resemble it. With
p = P(T=1),

.. math::
    E[Z(1) \mid T{=}1] &= \frac{1}{p} E[T Z], \\
    E[Y(0) \mid T{=}1] &= \frac{1}{p} E\Big[T m_0 + (1 - T) \frac{e}{1 - e} (Y - m_0)\Big],

The second holds if e *or* m is right: it is the AIPW score of the effect on the treated (Hahn, 1998;
Sant'Anna and Zhao, 2020, "Doubly robust difference-in-differences estimators"). Standard errors include that
p is estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import refuse_rows
from cfmtl_lib.logs.incentive_log import IncentiveLog
from cfmtl_lib.logs.row_arguments import check_log, numbers_by_row
from cfmtl_lib.nuisances.amounts import amount_means
from cfmtl_lib.nuisances.cross_fitting import crossfit
from cfmtl_lib.nuisances.moments import MOMENTS, LogNuisances
from cfmtl_lib.policy.arguments import check_costs, check_policy
from cfmtl_lib.policy.origin import TrainingRows, all_learned_on
from cfmtl_lib.policy.rewards import payment_of, reward_of_means
from cfmtl_lib.strata import strata_from_moments
from cfmtl_lib.value.calibration import cautions_about, effective_sample_size, members_of, tell
from cfmtl_lib.value.estimates import Estimate, about_money, mean_estimate, shares_table
from cfmtl_lib.value.scores import checked_clip


@dataclass(frozen=True, eq=False)
class TreatedScores:
    """Scores whose sums over all rows, divided by the number of treated rows, are means of the treated.

    Attributes
    ----------
    moments : ndarray of shape (n, 4), float64
        Scores of Y(1), Y(0), C(1) and C(1)Y(1).
    treated : ndarray of shape (n,), bool
        True for treated rows.
    odds : ndarray of shape (n,), float64
        Weight e / (1 - e) of each untreated row, in treated rows; 0 for treated ones.
    n_clipped : int
        Number of rows whose propensity was moved to the bound.
    index : pandas.Index, optional
        Labels of the rows, which a Series of costs has to match.
    amounts : ndarray of shape (n,), float64, optional
        Scores of the effect M(1) - M(0) on the outcome in money, if the log has one.
    """

    moments: NDArray[np.float64]
    treated: NDArray[np.bool_]
    odds: NDArray[np.float64]
    n_clipped: int
    index: pd.Index | None = None
    amounts: NDArray[np.float64] | None = None

    def strata(self) -> NDArray[np.float64]:
        """Compute scores of the five shares: treated rows sum to 1, untreated rows to 0; shape (n, 5)."""
        scores = strata_from_moments(*self.moments.T)
        scores[:, 0] -= ~self.treated  # the constant of the map belongs to the treated
        return scores

    def reward(
        self, scenario: str, cost: float | ArrayLike, conversion_value: float | ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Compute scores of the reward of treating, as those of ``UnitScores``; shape (n,)."""
        by_name = dict(zip(MOMENTS, self.moments.T, strict=True))
        paid = by_name[payment_of(scenario).moment]
        if self.amounts is not None and conversion_value is None:
            return self.amounts - check_costs(cost, len(paid), index=self.index) * paid
        return reward_of_means(
            by_name["converted_treated"],
            by_name["converted_untreated"],
            paid,
            cost,
            conversion_value,
            self.index,
        )


def treated_scores(log: IncentiveLog, nuisances: LogNuisances, *, clip: float | None = None) -> TreatedScores:
    """Compute AIPW scores of four means among the treated.

    Parameters
    ----------
    log : IncentiveLog
    nuisances : LogNuisances
        Nuisances at the rows of the log, of which only the propensity and the untreated mean are used.
    clip : float, optional
        Bound of the propensities: those above 1 - clip are moved there. The default is 0.01 for estimated
        ones and 0 for known ones.

    Returns
    -------
    TreatedScores

    Raises
    ------
    InputError
        If log and nuisances differ in length, clip lies outside [0, 0.5), or the propensity of an untreated
        row is 1.
    """
    clip = checked_clip(log, nuisances, clip)
    e = np.minimum(nuisances.propensity, 1 - clip)
    treated = log.t == 1
    refuse_rows("propensity", ~treated & (e == 1), expected="below 1 for untreated rows", found="1")
    odds = np.zeros(len(log))
    odds[~treated] = e[~treated] / (1 - e[~treated])
    m0 = nuisances.converted_untreated
    columns = [
        treated * moment.observed(log) if moment.arm else np.where(treated, m0, odds * (log.y - m0))
        for moment in MOMENTS.values()
    ]
    moments = np.stack(columns, axis=1)
    amounts = None
    if log.outcome is not None:
        gap = log.outcome - amount_means(log, nuisances)[:, 1]
        amounts = np.where(treated, gap, -odds * gap)
    n_clipped = int((e != nuisances.propensity).sum())
    return TreatedScores(moments.astype(np.float64), treated, odds, n_clipped, log.index, amounts)


def treated_shares(
    log: IncentiveLog,
    nuisances: LogNuisances | None = None,
    *,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    clip: float | None = None,
) -> pd.DataFrame:
    """Estimate the shares of the five strata among the treated (AIPW).

    Parameters
    ----------
    log : IncentiveLog
    nuisances : LogNuisances, optional
        Nuisances at the rows of the log. The default is
        :func:`~cfmtl_lib.nuisances.cross_fitting.crossfit` with its defaults.
    clusters, level
        As in :func:`~cfmtl_lib.value.estimates.policy_value`.
    clip : float, optional
        Bound of the propensities, see :func:`treated_scores`.

    Returns
    -------
    DataFrame
        Table with index: the strata; columns value, standard_error, lower, upper. Values sum to 1.
        ``attrs["cautions"]`` lists reasons not to trust the intervals.

    Examples
    --------
    >>> from cfmtl_lib import simulated_features
    >>> study = simulated_features(5000, seed=1)
    >>> shares = treated_shares(study.log, study.true_nuisances)
    >>> truth = study.strata_probability[study.log.t == 1].mean(axis=0)
    >>> bool((abs(shares["value"] - truth) < 3 * shares["standard_error"]).all())
    True
    """
    nuisances = crossfit(check_log(log)) if nuisances is None else nuisances
    scores = treated_scores(log, nuisances, clip=clip)
    labels = log.clusters(clusters)
    estimates = [_among_treated(column, scores.treated, labels, level) for column in scores.strata().T]
    told = _cautions(log, nuisances, scores, np.ones(len(log)), labels, clip=clip)
    table = shares_table(estimates)
    table.attrs["cautions"] = tell("treated_shares", told)
    return table


def treated_value(
    treat: ArrayLike,
    log: IncentiveLog,
    nuisances: LogNuisances | None = None,
    *,
    other: ArrayLike | None = None,
    scenario: str = "coupon",
    cost: float | ArrayLike,
    conversion_value: float | ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    clip: float | None = None,
) -> Estimate:
    """Estimate the value of a policy among the treated, against treating none of them.

    Parameters
    ----------
    treat : array_like of shape (n,), bool or in [0, 1]
        Policy for all rows of the log; a function of x and not of the outcomes.
    log, nuisances
        As in :func:`treated_shares`.
    other : array_like of shape (n,), optional
        Another policy. If given, the paired difference ``treat`` minus ``other`` is estimated.
    scenario, cost, conversion_value, clusters, level
        As in :func:`~cfmtl_lib.value.estimates.policy_value`.
    clip : float, optional
        Bound of the propensities, see :func:`treated_scores`.

    Returns
    -------
    Estimate
        Policy value a treated row of the log.

    Raises
    ------
    InputError
        If :func:`treated_scores` or :func:`~cfmtl_lib.value.estimates.policy_value` raises it.
    """
    n = len(check_log(log))
    policy = check_policy(treat, n, log.index)
    if other is not None:
        policy = policy - check_policy(other, n, log.index, "other")
    labels = log.clusters(clusters)
    nuisances = crossfit(log) if nuisances is None else nuisances
    scores = treated_scores(log, nuisances, clip=clip)
    reward = scores.reward(scenario, cost, conversion_value)
    estimate = _among_treated(policy * reward, scores.treated, labels, level)
    told = _cautions(
        log,
        nuisances,
        scores,
        np.abs(policy),
        labels,
        clip=clip,
        rows=all_learned_on((treat, other)),
    )
    about = about_money(log, conversion_value)
    return replace(estimate, cautions=tell("treated_value", told), **about)


def treated_effect(
    outcome: ArrayLike,
    means_untreated: ArrayLike,
    log: IncentiveLog,
    nuisances: LogNuisances,
    *,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    clip: float | None = None,
) -> Estimate:
    """Estimate the effect on the treated (ATT) for another outcome, such as a placebo.

    Parameters
    ----------
    outcome : array_like of shape (n,), float
        Outcome of each row.
    means_untreated : array_like of shape (n,), float
        Mean of the outcome given x among the untreated, fitted on other rows.
    log, nuisances, clusters, level, clip
        As in :func:`treated_shares`; only the propensity of the nuisances is used.

    Returns
    -------
    Estimate
    """
    n = len(check_log(log))
    z = numbers_by_row("outcome", outcome, n, log.index, booleans=True)
    m0 = numbers_by_row("means_untreated", means_untreated, n, log.index)
    scores = treated_scores(log, nuisances, clip=clip)
    gap = np.where(scores.treated, z - m0, -scores.odds * (z - m0))
    labels = log.clusters(clusters)
    estimate = _among_treated(gap, scores.treated, labels, level)
    told = _cautions(log, nuisances, scores, np.ones(n), labels, clip=clip, outcome=z)
    return replace(estimate, cautions=tell("treated_effect", told))


def _cautions(
    log: IncentiveLog,
    nuisances: LogNuisances,
    scores: TreatedScores,
    policy: NDArray[np.float64],
    clusters: ArrayLike | None,
    *,
    clip: float | None,
    rows: Sequence[TrainingRows] = (),
    outcome: NDArray | None = None,
) -> tuple[str, ...]:
    """List the cautions of an estimate among the treated, whose weights are 1 and the odds."""
    e = np.minimum(nuisances.propensity, 1 - checked_clip(log, nuisances, clip))
    sizes = (
        effective_sample_size(policy[scores.treated]),
        effective_sample_size((policy * scores.odds)[~scores.treated]),
    )
    return cautions_about(
        log,
        nuisances,
        e,
        policy * nuisances.propensity,
        effective_sizes=sizes,
        member=members_of(clusters, log),
        trained_on=rows,
        outcome=outcome,
    )


def _among_treated(
    scores: NDArray[np.float64], treated: NDArray[np.bool_], clusters: ArrayLike | None, level: float
) -> Estimate:
    share = treated.mean()
    value = float(scores.mean() / share)
    # The mean of the influence function is 0; its error is that of the ratio.
    spread = mean_estimate((scores - value * treated) / share, clusters=clusters, level=level)
    return Estimate(
        value,
        spread.standard_error,
        value + spread.lower - spread.value,
        value + spread.upper - spread.value,
        level,
        int(treated.sum()),
        spread.n_clusters,
    )
