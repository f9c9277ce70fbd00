r"""Randomised arms: what a trial says directly, without a model, and how to confound it on purpose.

Where an arm is drawn within blocks (sites, days, villages), rows of one block are comparable, and the mean of
an arm is the average over blocks of its means there. Its linearised unit score is that of the augmented
estimator with one propensity and one mean a block,

.. math::
    \psi_{ia} = \bar y_{a, b(i)} + \frac{1\{A_i = a\}}{\hat p_{a, b(i)}}\,(y_i - \bar y_{a, b(i)}),

so that errors, clusters and differences are those of :mod:`cfmtl_lib.value.estimates`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import InputError
from cfmtl_lib.value.estimates import check_labels, mean_estimate

ESTIMATE_COLUMNS = ["value", "standard_error", "lower", "upper"]


def arm_scores(
    outcome: ArrayLike, arm: ArrayLike, *, block: ArrayLike | None = None
) -> tuple[NDArray, NDArray[np.float64]]:
    """One score a row and arm, whose mean over rows is the mean of the outcome were all rows in that arm.

    Parameters
    ----------
    outcome : array_like of shape (n,), float
    arm : array_like of shape (n,)
        Label of the arm of each row.
    block : array_like of shape (n,), optional
        Within which the arms were drawn with equal probability for all rows. One block if left out.

    Returns
    -------
    labels : ndarray of shape (k,)
        The arms, sorted.
    scores : ndarray of shape (n, k), float64
        In units of the outcome.

    Raises
    ------
    InputError
        If shapes differ, a label is missing, an outcome is not finite, or a block has fewer than two rows of
        an arm.

    Examples
    --------
    >>> labels, scores = arm_scores([1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0])
    >>> scores.mean(axis=0).tolist()
    [0.0, 0.75]
    """
    y = np.asarray(outcome, dtype=np.float64)
    if y.ndim != 1 or not np.isfinite(y).all():
        raise InputError(
            "outcome",
            expected="finite numbers of shape (n,)",
            found=f"shape {y.shape}" if y.ndim != 1 else "NaN or infinity",
            row=None if y.ndim != 1 else int(np.flatnonzero(~np.isfinite(y))[0]),
        )
    n = len(y)
    labels, of_arm = check_labels("arm", arm, n)
    blocks, of_block = check_labels("block", np.zeros(n) if block is None else block, n)
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
    """Mean of an outcome in each arm of a trial, or its difference from one arm, with errors.

    Parameters
    ----------
    outcome, arm, block
        As in :func:`arm_scores`.
    clusters : array_like of shape (n,), optional
        Rows of one cluster may depend on each other.
    reference : label, optional
        An arm. If given, values are differences from it, and it is left out.
    level : float
        Of the intervals.

    Returns
    -------
    DataFrame
        Index: the arms; n, value, standard_error, lower, upper, in units of the outcome.

    Raises
    ------
    InputError
        As in :func:`arm_scores`, or if the reference is no arm.

    Examples
    --------
    >>> arm_means([1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0], reference=0)["value"].to_dict()
    {1: 0.75}
    """
    labels, scores = arm_scores(outcome, arm, block=block)
    base: NDArray[np.float64] | float = 0.0
    shown = list(range(len(labels)))
    if reference is not None:
        found = np.flatnonzero(labels == reference)
        if not found.size:
            raise InputError("reference", expected=f"one of {labels.tolist()}", found=repr(reference))
        base = scores[:, found[0]]
        shown.remove(int(found[0]))
    given = np.asarray(arm)
    rows = []
    for k in shown:
        estimate = mean_estimate(scores[:, k] - base, clusters=clusters, level=level)
        rows.append(
            [int((given == labels[k]).sum()), *(getattr(estimate, name) for name in ESTIMATE_COLUMNS)]
        )
    return pd.DataFrame(rows, index=pd.Index(labels[shown], name="arm"), columns=["n", *ESTIMATE_COLUMNS])


def complementary_thinning(
    propensity: ArrayLike, keep_untreated: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Keep probabilities that confound a trial and leave its population as it is.

    Untreated rows are kept with probability k(x), treated ones with :math:`(a - (1-e(x))\,k(x)) / e(x)`: any
    row is kept with probability a whatever its x, so that means over the kept rows estimate those over all.

    Parameters
    ----------
    propensity : array_like of shape (n,), float in (0, 1)
        e(x) of the trial.
    keep_untreated : array_like of shape (n,), float in (0, 1]
        k(x).

    Returns
    -------
    keep_treated : ndarray of shape (n,), float64
        For the largest a at which no probability exceeds 1.
    thinned_propensity : ndarray of shape (n,), float64
        P(T = 1 | x, kept).

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
    e, k = np.asarray(propensity, dtype=np.float64), np.asarray(keep_untreated, dtype=np.float64)
    if e.ndim != 1 or e.shape != k.shape:
        raise InputError("keep_untreated", expected=f"shape {e.shape}, as the propensity", found=f"{k.shape}")
    for subject, wrong, value, expected in (
        ("propensity", ~((e > 0) & (e < 1)), e, "values strictly between 0 and 1"),
        ("keep_untreated", ~((k > 0) & (k <= 1)), k, "values in (0, 1]"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(subject, expected=expected, found=str(value[row]), row=row)
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
