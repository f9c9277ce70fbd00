r"""Definitions of the five strata, the six observable cells, and the maps between them.

A user-item pair has four potential outcomes. C says whether the incentive is collected, Y whether the
pair converts: ``C(0)``, ``Y(0)`` without the incentive, ``C(1)``, ``Y(1)`` with it. Nothing can be
collected that was not offered, so ``C(0) = 0``. Under exclusion and monotonicity, five combinations
remain (KDD 2023 paper, Table 1):

+-------+--------------+------+------+------+------+
| index | stratum      | C(0) | C(1) | Y(0) | Y(1) |
+=======+==============+======+======+======+======+
| 0     | never buyer  | 0    | 0    | 0    | 0    |
+-------+--------------+------+------+------+------+
| 1     | never taker  | 0    | 0    | 1    | 1    |
+-------+--------------+------+------+------+------+
| 2     | coupon taker | 0    | 1    | 0    | 0    |
+-------+--------------+------+------+------+------+
| 3     | coupon buyer | 0    | 1    | 0    | 1    |
+-------+--------------+------+------+------+------+
| 4     | always buyer | 0    | 1    | 1    | 1    |
+-------+--------------+------+------+------+------+
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cfmtl_lib.errors import InputError, refuse_rows

STRATA = ("never buyer", "never taker", "coupon taker", "coupon buyer", "always buyer")
"""Names of the strata, in the order of every array of strata probabilities."""

NEVER_BUYER, NEVER_TAKER, COUPON_TAKER, COUPON_BUYER, ALWAYS_BUYER = range(5)

POTENTIAL_OUTCOMES = np.array(
    [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 0, 0], [0, 1, 0, 1], [0, 1, 1, 1]], dtype=np.int8
)
"""Potential outcomes by stratum: row s holds (C(0), C(1), Y(0), Y(1)) of stratum s."""
POTENTIAL_OUTCOMES.setflags(write=False)

CELLS = ((1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1), (0, 0, 1), (0, 0, 0))
"""Six observable cells (t, c, y), in the order of the loss terms of CF-MTL: treated cells first."""

N_TREATED_CELLS = sum(t for t, _, _ in CELLS)


def _cell_membership() -> NDArray[np.float64]:
    """Build the map from strata to cells: 1 where stratum s, under the t of cell k, is seen in cell k."""
    member = np.zeros((len(CELLS), len(STRATA)))
    for k, (t, c, y) in enumerate(CELLS):
        for s, (c0, c1, y0, y1) in enumerate(POTENTIAL_OUTCOMES):
            member[k, s] = (c1 if t else c0) == c and (y1 if t else y0) == y
    return member


CELL_MEMBERSHIP = _cell_membership()
"""Shape (6, 5): P(cell | T of the cell, x) = CELL_MEMBERSHIP @ strata probabilities (paper, Section 3.2)."""
CELL_MEMBERSHIP.setflags(write=False)


def check_strata(stratum: ArrayLike) -> NDArray[np.int8]:
    """Return stratum indices as int8, or raise :class:`InputError` that names the first bad one."""
    values = _plain_array("stratum", stratum)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(
            "stratum", expected="integers 0-4 of shape (n,)", found=f"{values.dtype} of shape {values.shape}"
        )
    refuse_rows("stratum", (values < 0) | (values >= len(STRATA)), expected="integers 0-4", found=values)
    return values.astype(np.int8)


def _plain_array(subject: str, values: ArrayLike) -> NDArray:
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        raise InputError(subject, expected="a value in each row", found="a masked one")
    try:
        return np.asarray(values)
    except (TypeError, ValueError, OverflowError) as problem:
        raise InputError(subject, expected="an array", found=f"none ({problem})") from None


def draw_strata(strata_probability: ArrayLike, rng: np.random.Generator) -> NDArray[np.int8]:
    """Draw a stratum for each row by its probabilities.

    Parameters
    ----------
    strata_probability : array_like of shape (n, 5), float
        Probabilities of the strata; rows sum to 1.
    rng : numpy.random.Generator
        Source of one uniform number for each row.

    Returns
    -------
    ndarray of shape (n,), int8
        Indices into :data:`STRATA`.

    Examples
    --------
    >>> draw_strata([[0, 0, 0, 1, 0], [1, 0, 0, 0, 0]], np.random.default_rng(0)).tolist()
    [3, 0]
    """
    p = _plain_array("strata_probability", strata_probability)
    if p.ndim != 2 or p.shape[1] != len(STRATA) or p.dtype.kind not in "iuf":
        raise InputError(
            "strata_probability", expected="numbers of shape (n, 5)", found=f"{p.dtype} of shape {p.shape}"
        )
    wrong = ~((p >= -1e-9).all(axis=1) & (np.abs(p.sum(axis=1) - 1) <= 1e-4))
    refuse_rows("strata_probability", wrong, expected="probabilities that sum to 1", found=p.sum(axis=1))
    below = p.astype(np.float64).cumsum(axis=1)[:, : len(STRATA) - 1]
    return (rng.random(len(below))[:, None] > below).sum(axis=1).astype(np.int8)


def observe(stratum: ArrayLike, treated: ArrayLike) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Compute what a log shows of pairs with known strata: C = C(T) and Y = Y(T) (consistency).

    Parameters
    ----------
    stratum : array_like of shape (n,), integer
        Indices into :data:`STRATA`.
    treated : array_like of shape (n,), 0/1
        1 where the incentive was given.

    Returns
    -------
    collected, converted : ndarray of shape (n,), int8

    Examples
    --------
    >>> observe([3, 3, 4], [0, 1, 0])
    (array([0, 1, 0], dtype=int8), array([0, 1, 1], dtype=int8))
    """
    outcomes = POTENTIAL_OUTCOMES[check_strata(stratum)]
    arm = _plain_array("treated", treated)
    if arm.shape != (len(outcomes),) or arm.dtype.kind not in "biuf":
        raise InputError(
            "treated", expected=f"0/1 of shape ({len(outcomes)},)", found=f"{arm.dtype} of shape {arm.shape}"
        )
    refuse_rows("treated", (arm != 0) & (arm != 1), expected="0 or 1", found=arm)
    arm = arm == 1
    return np.where(arm, outcomes[:, 1], outcomes[:, 0]), np.where(arm, outcomes[:, 3], outcomes[:, 2])


def observed_cell(treated: ArrayLike, collected: ArrayLike, converted: ArrayLike) -> NDArray[np.int8]:
    """Find the cell of each logged row, an index into :data:`CELLS`.

    All inputs are 0/1 of shape (n,); no row may have t = 0 and c = 1.

    Examples
    --------
    >>> observed_cell([1, 1, 0], [0, 1, 0], [0, 1, 1]).tolist()
    [0, 3, 4]
    """
    t, c, y = (np.asarray(v).astype(np.int64) for v in (treated, collected, converted))
    index_of = np.full((2, 2, 2), -1, dtype=np.int8)
    for k, cell in enumerate(CELLS):
        index_of[cell] = k
    cells = index_of[t, c, y]
    refuse_rows("collected", cells < 0, expected="0 wherever treated is 0", found="1")
    return cells


def strata_from_moments(
    converted_treated: ArrayLike,
    converted_untreated: ArrayLike,
    collected_treated: ArrayLike,
    collected_and_converted_treated: ArrayLike,
) -> NDArray[np.float64]:
    r"""Solve the eight cell equations for the strata probabilities (paper, Section 3.2).

    With :math:`\mu_t = P(Y{=}1|T{=}t,x)`, :math:`\kappa = P(C{=}1|T{=}1,x)` and
    :math:`\tau = P(C{=}1,Y{=}1|T{=}1,x)`:

    .. math::
        p_{0000} &= 1 - \kappa - \mu_1 + \tau,\quad p_{0011} = \mu_1 - \tau,\quad p_{0100} = \kappa - \tau, \\
        p_{0101} &= \mu_1 - \mu_0,\quad p_{0111} = \mu_0 - \mu_1 + \tau .

    Replacing :math:`\tau` by the product :math:`\kappa\mu_1` gives the form used in the authors' code.

    Parameters
    ----------
    converted_treated, converted_untreated : array_like of shape (n,)
        :math:`\mu_1` and :math:`\mu_0`.
    collected_treated : array_like of shape (n,)
        :math:`\kappa`.
    collected_and_converted_treated : array_like of shape (n,)
        :math:`\tau`.

    Returns
    -------
    ndarray of shape (n, 5), float64
        Strata probabilities; rows sum to 1. Entries can leave [0, 1] when the inputs are estimates. They
        are not clipped, because clipping would hide a violated testable implication.

    Examples
    --------
    >>> strata_from_moments([0.6], [0.5], [0.7], [0.45]).round(2).tolist()
    [[0.15, 0.15, 0.25, 0.1, 0.35]]
    """
    mu1, mu0, kappa, tau = (
        np.asarray(v, dtype=np.float64)
        for v in (
            converted_treated,
            converted_untreated,
            collected_treated,
            collected_and_converted_treated,
        )
    )
    return np.stack([1 - kappa - mu1 + tau, mu1 - tau, kappa - tau, mu1 - mu0, mu0 - mu1 + tau], axis=1)
