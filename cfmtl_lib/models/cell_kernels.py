"""Epochs of CF-MTL on pairs, compiled: the loss of :mod:`cfmtl_lib.models.losses` in passes over rows."""

from __future__ import annotations

import math

import numpy as np

from cfmtl_lib.models.kernels import additive_logits, additive_step, kernel, rate_of
from cfmtl_lib.models.losses import INSIDE_LOG
from cfmtl_lib.strata import CELL_MEMBERSHIP, N_TREATED_CELLS

N_CELLS, N_STRATA = CELL_MEMBERSHIP.shape
IN_CELL = CELL_MEMBERSHIP.astype(np.bool_)
FACTORS = 16
"""Numbers multiplied before a logarithm is taken; 2.2e-16 to this power is 3e-251."""

ROWS_A_PASS = 256
"""Rows worked on at once: their numbers stay in the processor's first cache."""


@kernel
def softmax_columns(logits, largest, total):  # type: ignore[no-untyped-def]
    """Compute the softmax of columns, in place."""
    n = len(total)
    for r in range(n):
        largest[r] = logits[0, r]
        total[r] = 0
    for s in range(1, N_STRATA):
        of_stratum = logits[s]
        for r in range(n):
            largest[r] = max(largest[r], of_stratum[r])
    for s in range(N_STRATA):
        of_stratum = logits[s]
        for r in range(n):
            of_stratum[r] = math.exp(of_stratum[r] - largest[r])
        for r in range(n):
            total[r] += of_stratum[r]
    for s in range(N_STRATA):
        of_stratum = logits[s]
        for r in range(n):
            of_stratum[r] /= total[r]


@kernel
def _sum_of_logs(numbers):  # type: ignore[no-untyped-def]
    """Sum logarithms of numbers from the rounding unit to 1; products of :data:`FACTORS` are no denormals."""
    total = 0.0
    for start in range(0, len(numbers), FACTORS):
        product = 1.0
        for number in numbers[start : start + FACTORS]:
            product *= number
        total += math.log(product)
    return total


@kernel
def _cell_losses(f, propensity_logit, cell, settings, by_f, room):  # type: ignore[no-untyped-def]
    """Sum the loss of some rows; their derivatives replace the logits of strata and propensity.

    The formulas are those of :class:`cfmtl_lib.models.losses._CellLoss`, in passes over the rows.
    """
    weights, floor, propensity_weight = settings
    number = type(floor)
    one, zero, inside_log, most = (
        number(1),
        number(0),
        number(INSIDE_LOG),
        number(1 - np.finfo(weights.dtype).eps),
    )
    n = len(cell)
    sigmoid, g, given_arm, inner, by_g, by_q = room[0], room[1], room[2], room[3], room[4], room[5]
    softmax_columns(f, given_arm, inner)
    loss = 0.0
    for r in range(n):
        sigmoid[r] = one / (one + math.exp(-propensity_logit[r]))
    for r in range(n):
        g[r] = max(sigmoid[r], floor)
        error = g[r] - (one if cell[r] < N_TREATED_CELLS else zero)
        loss += propensity_weight * error * error
        by_g[r] = propensity_weight * (error + error)
    by_f[:] = 0
    for k in range(N_CELLS):
        weight, treated = weights[k], k < N_TREATED_CELLS
        for r in range(n):
            given_arm[r] = 0
        for s in range(N_STRATA):
            if IN_CELL[k, s]:
                of_stratum = f[s]
                for r in range(n):
                    given_arm[r] += of_stratum[r]
        for r in range(n):
            q = min(given_arm[r] * (g[r] if treated else one - g[r]) + inside_log, most)
            inner[r] = q if cell[r] == k else one - q
        loss -= weight * _sum_of_logs(inner[:n])
        for r in range(n):
            by_q[r] = (-weight if cell[r] == k else weight) / inner[r]
        for r in range(n):
            by_arm = by_q[r] * given_arm[r]
            by_g[r] += by_arm if treated else -by_arm
        for r in range(n):
            by_q[r] *= g[r] if treated else one - g[r]
        for s in range(N_STRATA):
            if IN_CELL[k, s]:
                by_stratum = by_f[s]
                for r in range(n):
                    by_stratum[r] += by_q[r]
    along = given_arm
    for r in range(n):
        along[r] = 0
    for s in range(N_STRATA):
        of_stratum, by_stratum = f[s], by_f[s]
        for r in range(n):
            along[r] += of_stratum[r] * by_stratum[r]
    for s in range(N_STRATA):
        of_stratum, by_stratum = f[s], by_f[s]
        for r in range(n):
            of_stratum[r] *= by_stratum[r] - along[r]
    for r in range(n):
        inside = by_g[r] * sigmoid[r] * (one - sigmoid[r])
        propensity_logit[r] = inside if sigmoid[r] > floor else zero
    return loss


@kernel
def _cells_batch(  # type: ignore[no-untyped-def]
    f_of_user, f_of_item, g_of_user, g_of_item, user, item, cell, settings, by, room
):
    """Sum the loss of a batch of CF-MTL; add its derivatives by the parts of all logits."""
    f_by_user, f_by_item, g_by_user, g_by_item = by
    strata, by_f, propensity, passes = room
    total = 0.0
    for start in range(0, len(user), ROWS_A_PASS):
        n = min(ROWS_A_PASS, len(user) - start)
        users, items = user[start : start + n], item[start : start + n]
        for r in range(n):
            u, i = users[r], items[r]
            for s in range(N_STRATA):
                strata[s, r] = f_of_user[u, s] + f_of_item[i, s]
            propensity[r] = g_of_user[u, 0] + g_of_item[i, 0]
        total += _cell_losses(
            strata[:, :n], propensity[:n], cell[start : start + n], settings, by_f[:, :n], passes
        )
        for r in range(n):
            u, i = users[r], items[r]
            for s in range(N_STRATA):
                f_by_user[u, s] += strata[s, r]
                f_by_item[i, s] += strata[s, r]
            g_by_user[u, 0] += propensity[r]
            g_by_item[i, 0] += propensity[r]
    return total


@kernel
def cells_epoch(  # type: ignore[no-untyped-def]
    strata, propensity, user, item, cell, batch_size, settings, adam, losses
):
    """Take steps of CF-MTL on consecutive batches; ``losses`` gets the summed loss of each.

    ``settings`` are the cells' weights (6,), the lower bound of the propensity and the weight of its loss, in
    the type of the parameters.
    """
    dtype = strata.user.value.dtype
    n_users, n_items = len(strata.user.value), len(strata.item.value)
    f_by_user, f_by_item = np.zeros((n_users, N_STRATA), dtype), np.zeros((n_items, N_STRATA), dtype)
    g_by_user, g_by_item = np.zeros((n_users, 1), dtype), np.zeros((n_items, 1), dtype)
    f_of_user, f_of_item = np.empty_like(f_by_user), np.empty_like(f_by_item)
    g_of_user, g_of_item = np.empty_like(g_by_user), np.empty_like(g_by_item)
    by = (f_by_user, f_by_item, g_by_user, g_by_item)
    room = (
        np.empty((N_STRATA, ROWS_A_PASS), dtype),
        np.empty((N_STRATA, ROWS_A_PASS), dtype),
        np.empty(ROWS_A_PASS, dtype),
        np.empty((6, ROWS_A_PASS), dtype),
    )
    for step in range(len(losses)):
        rate = rate_of(adam.n_before + step + 1, adam.learning_rate, adam.weight_decay, dtype.type(1))
        rows = slice(step * batch_size, (step + 1) * batch_size)
        additive_logits(strata, f_of_user, f_of_item)
        additive_logits(propensity, g_of_user, g_of_item)
        losses[step] = _cells_batch(
            f_of_user, f_of_item, g_of_user, g_of_item, user[rows], item[rows], cell[rows], settings, by, room
        )
        additive_step(strata, f_by_user, f_by_item, rate)
        additive_step(propensity, g_by_user, g_by_item, rate)
