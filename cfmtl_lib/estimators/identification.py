r"""Identification of the strata by the loss of CF-MTL, with and without the terms of the untreated cells.

The four treated cells hold coupon buyers and always buyers as their sum only. So the loss of these cells is
constant along the direction :math:`(0, 0, 0, 1, -1)` of the strata probabilities. The likelihood is flat
there: where a fit ends depends on its start, weight decay and path. Either cell of the untreated arm
identifies both strata. Cell (0, 0, 1) holds always buyers without coupon buyers, cell (0, 0, 0) the reverse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import null_space

from cfmtl_lib.errors import InputError
from cfmtl_lib.models.losses import CellWeights
from cfmtl_lib.strata import ALWAYS_BUYER, CELL_MEMBERSHIP, COUPON_BUYER


def unseen_directions(weights: CellWeights) -> NDArray[np.float64]:
    """Find directions of strata probabilities that cells with a positive weight do not depend on.

    Parameters
    ----------
    weights : CellWeights

    Returns
    -------
    ndarray of shape (5, m), float64
        Orthonormal basis; m = 0 if the strata are identified from these cells.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from cfmtl_lib.protocol import PAPER
    >>> unseen_directions(PAPER.two_stage_weights).shape
    (5, 0)
    >>> without_both = replace(PAPER.two_stage_weights, t0c0y1=0, t0c0y0=0)
    >>> np.abs(unseen_directions(without_both)[:, 0]).round(3).tolist()
    [0.0, 0.0, 0.0, 0.707, 0.707]
    """
    seen = np.array(weights.in_cell_order()) > 0
    # Probabilities sum to one: no direction may change their sum.
    return null_space(np.vstack([CELL_MEMBERSHIP[seen], np.ones(CELL_MEMBERSHIP.shape[1])]))


def move_between_buyers(strata_probability: ArrayLike, share: float) -> NDArray[np.float64]:
    """Move a share of one kind of buyers to the other, in strata probabilities.

    Parameters
    ----------
    strata_probability : array_like of shape (n, 5), float
    share : float in [-1, 1]
        Share of the always buyers that become coupon buyers; below 0, the reverse.

    Returns
    -------
    ndarray of shape (n, 5), float64

    Raises
    ------
    InputError
        If the share lies outside [-1, 1].

    Examples
    --------
    >>> move_between_buyers([[0.1, 0.1, 0.2, 0.4, 0.2]], share=0.5).round(6).tolist()
    [[0.1, 0.1, 0.2, 0.5, 0.1]]
    """
    if not -1 <= share <= 1:
        raise InputError("share", expected="a number in [-1, 1]", found=repr(share))
    p = np.array(strata_probability, dtype=np.float64)
    moved = share * (p[:, ALWAYS_BUYER] if share > 0 else p[:, COUPON_BUYER])
    p[:, COUPON_BUYER] += moved
    p[:, ALWAYS_BUYER] -= moved
    return p
