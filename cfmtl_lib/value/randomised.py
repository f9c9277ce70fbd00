r"""Means of the arms of a randomised trial, without a model, and thinning that confounds a trial on purpose.

Where an arm is drawn within blocks (sites, days, villages), rows of one block are comparable. The mean of an
arm is then the average over blocks of its means there. Its linearised unit score is that of the AIPW
estimator with one propensity and one mean for each block,

.. math::
    \psi_{ia} = \bar y_{a, b(i)} + \frac{1\{A_i = a\}}{\hat p_{a, b(i)}}\,(y_i - \bar y_{a, b(i)}),

so that errors, clusters and differences are those of :mod:`cfmtl_lib.value.estimates`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import InputError, refuse_rows
from cfmtl_lib.logs.alignment import index_of
from cfmtl_lib.logs.row_arguments import labels_by_row, numbers_by_row, same_rows
from cfmtl_lib.value.estimates import mean_estimate

ESTIMATE_COLUMNS = ["value", "standard_error", "lower", "upper"]


def arm_scores(
    outcome: ArrayLike, arm: ArrayLike, *, block: ArrayLike | None = None
) -> tuple[NDArray, NDArray[np.float64]]:
    """Compute scores of rows whose means over rows are the mean outcomes if all rows were in one arm.

    Parameters
    ----------
    outcome : array_like of shape (n,), float
        Outcome of each row.
    arm : array_like of shape (n,)
        Label of the arm of each row.
    block : array_like of shape (n,), optional
        Label of the block of each row. Within a block, an arm has the same probability for all rows. One
        block if left out.

    Returns
    -------
    labels : ndarray of shape (k,)
        Labels of the arms, sorted.
    scores : ndarray of shape (n, k), float64
        Scores by row and arm, in units of the outcome.

    Raises
    ------
    InputError
        If shapes differ, a label is missing, an outcome is not finite, or a block has fewer than two rows of
        some arm.

    Examples
    --------
    >>> labels, scores = arm_scores([1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0])
    >>> scores.mean(axis=0).tolist()
    [0.0, 0.75]
    """
    y, index = numbers_by_row("outcome", outcome, booleans=True), index_of(outcome)
    n = len(y)
    labels, of_arm = labels_by_row("arm", arm, n, index)
    blocks, of_block = labels_by_row("block", np.zeros(n) if block is None else block, n, index)
    counts = np.zeros((len(blocks), len(labels)))
    totals = np.zeros_like(counts)
    np.add.at(counts, (of_block, of_arm), 1)
    np.add.at(totals, (of_block, of_arm), y)
    few = np.argwhere(counts < 2)
    if few.size:
        b, a = few[0]
        raise InputError(
            "block",
            expected="at least two rows of each arm in each block",
            found=f"{counts[b, a]:.0f} of arm {labels[a]} in block {blocks[b]}",
            advice="Merge blocks, or leave out those that have one arm only.",
        )
    means = totals / counts
    shares = counts / counts.sum(axis=1, keepdims=True)
    # Residuals from the mean of m rows are too small by sqrt(1 - 1/m): it matters in small blocks.
    widened = np.sqrt(counts / (counts - 1)) / shares
    scores = means[of_block]
    scores[np.arange(n), of_arm] += widened[of_block, of_arm] * (y - means[of_block, of_arm])
    return labels, scores


def arm_means(
    outcome: ArrayLike,
    arm: ArrayLike,
    *,
    block: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    reference: object = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """Estimate the mean of an outcome in each arm of a trial, or its difference from one arm.

    Parameters
    ----------
    outcome, arm, block
        As in :func:`arm_scores`.
    clusters : array_like of shape (n,), optional
        Labels of clusters: rows of one cluster may depend on each other.
    reference : label, optional
        Label of an arm. If given, values are differences from it, and it is left out.
    level : float
        Confidence level of the intervals.

    Returns
    -------
    DataFrame
        Table with index: the arms; columns n, value, standard_error, lower, upper, in units of the outcome.

    Raises
    ------
    InputError
        If :func:`arm_scores` raises it, or the reference is no arm.

    Examples
    --------
    >>> arm_means([1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0], reference=0)["value"].to_dict()
    {1: 0.75}
    """
    labels, scores = arm_scores(outcome, arm, block=block)
    base: NDArray[np.float64] | float = 0.0
    shown = list(range(len(labels)))
    if reference is not None:
        found = np.flatnonzero([_is_label(label, reference) for label in labels.tolist()])
        if not found.size:
            raise InputError("reference", expected=f"one of {labels.tolist()}", found=repr(reference))
        base = scores[:, found[0]]
        shown.remove(int(found[0]))
    index = index_of(outcome)
    of_arm = labels_by_row("arm", arm, len(scores), index)[1]
    together = None if clusters is None else labels_by_row("clusters", clusters, len(scores), index)[1]
    rows = []
    for k in shown:
        estimate = mean_estimate(scores[:, k] - base, clusters=together, level=level)
        rows.append([int((of_arm == k).sum()), *(getattr(estimate, name) for name in ESTIMATE_COLUMNS)])
    return pd.DataFrame(rows, index=pd.Index(labels[shown], name="arm"), columns=["n", *ESTIMATE_COLUMNS])


def _is_label(label: object, reference: object) -> bool:
    try:
        return bool(label == reference)
    except Exception:  # an array, a missing value, a signalling NaN
        return False


def complementary_thinning(
    propensity: ArrayLike, keep_untreated: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Compute probabilities of keeping rows that confound a trial and preserve its population.

    Untreated rows are kept with probability k(x), treated ones with :math:`(a - (1-e(x))\,k(x)) / e(x)`. So
    any row is kept with probability a whatever its x, and means over the kept rows estimate those over all.

    Parameters
    ----------
    propensity : array_like of shape (n,), float in (0, 1)
        Propensity e(x) of the trial.
    keep_untreated : array_like of shape (n,), float in (0, 1]
        Probability k(x) of keeping a row if it is untreated.

    Returns
    -------
    keep_treated : ndarray of shape (n,), float64
        Probability of keeping a row if it is treated, for the largest a at which none exceeds 1.
    thinned_propensity : ndarray of shape (n,), float64
        Propensity P(T = 1 | x, kept) after thinning.

    Raises
    ------
    InputError
        If shapes differ, a probability is out of its range, or no a is large enough for overlap.

    Examples
    --------
    >>> keep, e = complementary_thinning([0.5, 0.5], [1.0, 0.5])
    >>> keep.tolist(), e.round(3).tolist()
    ([0.5, 1.0], [0.333, 0.667])
    """
    e = numbers_by_row("propensity", propensity)
    k = numbers_by_row("keep_untreated", same_rows("keep_untreated", keep_untreated, propensity), len(e))
    for subject, wrong, value, expected in (
        ("propensity", ~((e > 0) & (e < 1)), e, "values strictly between 0 and 1"),
        ("keep_untreated", ~((k > 0) & (k <= 1)), k, "values in (0, 1]"),
    ):
        refuse_rows(subject, wrong, expected=expected, found=value)
    overall = float((e + (1 - e) * k).min())
    keep_treated = (overall - (1 - e) * k) / e
    if keep_treated.min() <= 0:
        raise InputError(
            "keep_untreated",
            expected="treated rows enough to make up for the untreated ones",
            found=f"a keep probability of {keep_treated.min():.3f} for treated rows",
            row=int(keep_treated.argmin()),
            advice="Thin the untreated rows of the least kept units less, or the others more.",
        )
    return keep_treated, e * keep_treated / overall
