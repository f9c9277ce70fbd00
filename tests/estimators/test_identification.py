"""What the cells of a log leave open, by hand."""

import numpy as np
import pytest

import cfmtl_lib as cf
from cfmtl_lib.estimators.identification import move_between_buyers, unseen_directions


@pytest.mark.parametrize(
    "share, buyers",
    [(0.5, [0.5, 0.1]), (1.0, [0.6, 0.0]), (-0.5, [0.2, 0.4]), (-1.0, [0.0, 0.6]), (0.0, [0.4, 0.2])],
)
def test_a_share_of_the_one_kind_of_buyers_becomes_the_other(share, buyers):
    p = [[0.1, 0.1, 0.2, 0.4, 0.2]]
    moved = move_between_buyers(p, share)
    np.testing.assert_allclose(moved, [[0.1, 0.1, 0.2, *buyers]], atol=1e-12)
    assert p == [[0.1, 0.1, 0.2, 0.4, 0.2]]


def test_untreated_cells_alone_leave_all_but_two_sums_open():
    weights = cf.CellWeights(0, 0, 0, 0, t0c0y1=1, t0c0y0=1)
    unseen = unseen_directions(weights)
    assert unseen.shape == (5, 3)
    np.testing.assert_allclose(unseen[[1, 4]].sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(unseen[[0, 2, 3]].sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(unseen.T @ unseen, np.eye(3), atol=1e-12)
