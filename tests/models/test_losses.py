"""Losses by hand: weights belong to their cells, terms to their arms."""

import numpy as np
import pytest
import torch

import cfmtl_lib as cf
from cfmtl_lib.models.losses import INSIDE_LOG, ProbabilityLoss, expected_cell_losses
from cfmtl_lib.strata import CELLS

P = np.array([[0.1, 0.2, 0.3, 0.25, 0.15], [0.3, 0.1, 0.2, 0.1, 0.3]])
Q = np.array([[0.2, 0.2, 0.2, 0.2, 0.2], [0.1, 0.2, 0.4, 0.2, 0.1]])
E = np.array([0.3, 0.8])


def test_weights_are_those_of_the_cells_that_name_them():
    weights = cf.CellWeights(t1c0y0=1, t1c0y1=2, t1c1y0=3, t1c1y1=4, t0c0y1=5, t0c0y0=6)
    assert weights.in_cell_order() == tuple(getattr(weights, f"t{t}c{c}y{y}") for t, c, y in CELLS)
    assert weights.in_cell_order() == (1, 2, 3, 4, 5, 6)


def test_expected_losses_of_the_cells_by_hand():
    def cells(p):
        return np.array(
            [
                E * p[:, 0],
                E * p[:, 1],
                E * p[:, 2],
                E * (p[:, 3] + p[:, 4]),
                (1 - E) * (p[:, 1] + p[:, 4]),
                (1 - E) * (p[:, 0] + p[:, 2] + p[:, 3]),
            ]
        )

    q, z = cells(Q) + INSIDE_LOG, cells(P)
    expected = -(z * np.log(q) + (1 - z) * np.log(1 - q)).mean(axis=1)
    np.testing.assert_allclose(expected_cell_losses(Q, P, E), expected, atol=1e-12)
    assert (expected_cell_losses(P, P, E) <= expected_cell_losses(Q, P, E) + 1e-9).all()


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_the_loss_of_a_probability_by_hand(loss):
    logit, target = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([0.0, 1.0, 1.0])
    found = float(ProbabilityLoss(lambda first, second: logit, loss)(None, None, target))
    p = 1 / (1 + np.exp(-logit.numpy().astype(float)))
    by_hand = {
        "squared_error": np.mean((p - target.numpy()) ** 2),
        "cross_entropy": -np.mean(np.log(np.where(target.numpy() == 1, p, 1 - p))),
    }
    assert found == pytest.approx(by_hand[loss], rel=1e-6)
