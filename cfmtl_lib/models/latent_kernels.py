"""Epochs of latent strata, compiled: the loss of :mod:`cfmtl_lib.models.latent_networks`, in passes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cfmtl_lib.models.cell_kernels import N_STRATA, softmax_columns
from cfmtl_lib.models.kernels import Trained, adam_all, kernel, rate_of
from cfmtl_lib.strata import CELL_MEMBERSHIP, N_TREATED_CELLS

MEMBER = np.ascontiguousarray(CELL_MEMBERSHIP.T)
LEAST = 1e-30
"""Lower bound of the likelihood of a row, the smallest that 32-bit floats divide by without harm."""

FACTORS = 8
"""Numbers multiplied before a logarithm is taken; 1e-30 to this power is 1e-240."""

ROWS_A_PASS = 128
"""Rows worked on at once: their numbers stay in the processor's first cache."""


class Latent(NamedTuple):
    """Parameters of latent strata, the group of each stratum, and the settings of the priors.

    ``decay`` has a number for each column of the tables. ``weight_decay`` is that of the weights.
    ``with_products`` says whether the last row of the weights is trained.
    """

    user: Trained
    item: Trained
    intercept: Trained
    contrast: Trained
    weight: Trained
    selection: Trained
    group: NDArray
    decay: NDArray
    weight_decay: float
    with_products: bool


@kernel
def _forward(model, user, item, f, h, strata, arm):  # type: ignore[no-untyped-def]
    """Compute scores, products, logits of the strata and the part of T's logit that all strata share."""
    n, n_scores, rank = len(user), model.contrast.value.shape[1], len(h)
    for r in range(n):
        of_user, of_item = model.user.value[user[r]], model.item.value[item[r]]
        for j in range(n_scores + 1):
            f[j, r] = of_user[j] + of_item[j]
        for k in range(rank):
            h[k, r] = of_user[n_scores + 1 + k] * of_item[n_scores + 1 + k]
    for z in range(N_STRATA):
        logit, constant = strata[z], model.intercept.value[0, z]
        for r in range(n):
            logit[r] = constant
        for j in range(n_scores):
            contrast, score = model.contrast.value[z, j], f[j]
            for r in range(n):
                logit[r] += contrast * score[r]
        for k in range(rank):
            weight, product = model.weight.value[z, k], h[k]
            for r in range(n):
                logit[r] += weight * product[r]
    for r in range(n):
        arm[r] = f[n_scores, r]
    if model.with_products:
        for k in range(rank):
            weight, product = model.weight.value[N_STRATA, k], h[k]
            for r in range(n):
                arm[r] += weight * product[r]


@kernel
def _likelihoods(model, cell, share, strata, arm, treated, joint, total, by):  # type: ignore[no-untyped-def]
    """Sum the loss of some rows; derivatives replace the logits of the strata and of T."""
    one = model.intercept.value.dtype.type(1)
    n = len(cell)
    softmax_columns(strata, treated[0], total[:n])
    for g in range(len(treated)):
        intercept, of_group = model.selection.value[0, g], treated[g]
        for r in range(n):
            of_group[r] = one / (one + math.exp(-(arm[r] + intercept)))
    for r in range(n):
        total[r] = model.decay.dtype.type(LEAST)
        arm[r] = 0
    for z in range(N_STRATA):
        member, probability, of_group, of_stratum = MEMBER[z], strata[z], treated[model.group[z]], joint[z]
        for r in range(n):
            if member[cell[r]] > 0:
                given = of_group[r] if cell[r] < N_TREATED_CELLS else one - of_group[r]
                of_stratum[r] = probability[r] * given
                total[r] += of_stratum[r]
            else:
                of_stratum[r] = 0
    loss = 0.0
    for start in range(0, n, FACTORS):
        product = 1.0
        for number in total[start : min(start + FACTORS, n)]:
            product *= number
        loss -= math.log(product)
    for r in range(n):
        total[r] = one / total[r]
    for z in range(N_STRATA):
        probability, of_group, of_stratum = strata[z], treated[model.group[z]], joint[z]
        by_constant, by_selection = one - one, one - one
        for r in range(n):
            posterior = of_stratum[r] * total[r]
            slope = (probability[r] - posterior) * share
            probability[r] = slope
            by_constant += slope
            observed = one if cell[r] < N_TREATED_CELLS else one - one
            of_arm = posterior * (of_group[r] - observed) * share
            arm[r] += of_arm
            by_selection += of_arm
        by[2][0, z] += by_constant
        by[5][0, model.group[z]] += by_selection
    return loss


@kernel
def _backward(model, user, item, f, h, strata, arm, by):  # type: ignore[no-untyped-def]
    """Add the derivatives by the parameters; those by scores and products replace these."""
    one = model.intercept.value.dtype.type(1)
    n, n_scores, rank = len(user), model.contrast.value.shape[1], len(h)
    by_user, by_item, _, by_contrast, by_weight, _ = by
    for j in range(n_scores):
        score = f[j]
        for z in range(N_STRATA):
            slope, total = strata[z], one - one
            for r in range(n):
                total += slope[r] * score[r]
            by_contrast[z, j] += total
        for r in range(n):
            score[r] = 0
        for z in range(N_STRATA):
            slope, contrast = strata[z], model.contrast.value[z, j]
            for r in range(n):
                score[r] += contrast * slope[r]
    for k in range(rank):
        product = h[k]
        for z in range(N_STRATA):
            slope, total = strata[z], one - one
            for r in range(n):
                total += slope[r] * product[r]
            by_weight[z, k] += total
        weight = one - one
        if model.with_products:
            weight, total = model.weight.value[N_STRATA, k], one - one
            for r in range(n):
                total += arm[r] * product[r]
            by_weight[N_STRATA, k] += total
        for r in range(n):
            product[r] = weight * arm[r]
        for z in range(N_STRATA):
            slope, weight = strata[z], model.weight.value[z, k]
            for r in range(n):
                product[r] += weight * slope[r]
    for r in range(n):
        of_user, of_item = model.user.value[user[r]], model.item.value[item[r]]
        by_u, by_i = by_user[user[r]], by_item[item[r]]
        for j in range(n_scores):
            by_u[j] += f[j, r]
            by_i[j] += f[j, r]
        by_u[n_scores] += arm[r]
        by_i[n_scores] += arm[r]
        for k in range(rank):
            slope, column = h[k, r], n_scores + 1 + k
            by_u[column] += slope * of_item[column]
            by_i[column] += slope * of_user[column]


@kernel
def _add_prior(value, decay, gradient):  # type: ignore[no-untyped-def]
    """Add the derivative of a table's prior, and return the prior's part of the loss."""
    loss = 0.0
    for row in range(len(value)):
        numbers, slopes = value[row], gradient[row]
        total = value.dtype.type(0)
        for j in range(len(decay)):
            slope = decay[j] * numbers[j]
            slopes[j] += slope
            total += slope * numbers[j]
        loss += total
    return loss / 2


@kernel
def latent_epoch(model, user, item, cell, batch_size, adam, losses):  # type: ignore[no-untyped-def]
    """Take steps on consecutive batches of the rows; ``losses`` gets the mean loss of each."""
    dtype = model.intercept.value.dtype
    by = (
        np.zeros_like(model.user.value),
        np.zeros_like(model.item.value),
        np.zeros_like(model.intercept.value),
        np.zeros_like(model.contrast.value),
        np.zeros_like(model.weight.value),
        np.zeros_like(model.selection.value),
    )
    n_scores, rank = model.contrast.value.shape[1], model.weight.value.shape[1]
    f, h = np.empty((n_scores + 1, ROWS_A_PASS), dtype), np.empty((rank, ROWS_A_PASS), dtype)
    strata, joint = np.empty((N_STRATA, ROWS_A_PASS), dtype), np.empty((N_STRATA, ROWS_A_PASS), dtype)
    treated = np.empty((model.selection.value.shape[1], ROWS_A_PASS), dtype)
    arm, total = np.empty((2, ROWS_A_PASS), dtype)
    weight_decay = np.full(rank, model.weight_decay, dtype)
    for step in range(len(losses)):
        begin, end = step * batch_size, min((step + 1) * batch_size, len(user))
        share, loss = dtype.type(1) / dtype.type(end - begin), 0.0
        for start in range(begin, end, ROWS_A_PASS):
            rows = slice(start, min(start + ROWS_A_PASS, end))
            users, items = user[rows], item[rows]
            _forward(model, users, items, f, h, strata, arm)
            loss += _likelihoods(model, cell[rows], share, strata, arm, treated, joint, total, by)
            _backward(model, users, items, f, h, strata, arm, by)
        losses[step] = loss / (end - begin)
        losses[step] += _add_prior(model.user.value, model.decay, by[0])
        losses[step] += _add_prior(model.item.value, model.decay, by[1])
        trained = N_STRATA + 1 if model.with_products else N_STRATA
        losses[step] += _add_prior(model.weight.value[:trained], weight_decay, by[4][:trained])
        rate = rate_of(adam.n_before + step + 1, adam.learning_rate, 0.0, dtype.type(1))
        adam_all(model.user, by[0], rate)
        adam_all(model.item, by[1], rate)
        adam_all(model.intercept, by[2], rate)
        adam_all(model.contrast, by[3], rate)
        adam_all(model.weight, by[4], rate)
        adam_all(model.selection, by[5], rate)
