"""Training epochs of networks of pairs, compiled by numba; optional, for the CPU.

The arithmetic is that of the PyTorch engine (:mod:`cfmtl_lib.models.engines`): the same losses, the same
gradients, written out, and the same Adam with L2 decay. Three things make it fast.

- The gradient of an additive logit is one number per row times the layer's weights. It is never laid out in
  memory.
- Adam reads and writes parameters and moments once a step.
- A whole epoch is one call, without Python and without its lock. So fits run side by side in threads.

Sums are taken in another order than in torch, so a step agrees to rounding, which grows over a long fit.

Only :mod:`cfmtl_lib.models.engines` imports this module and :mod:`cfmtl_lib.models.cell_kernels`. It first
checks whether numba is installed. Loops are short and plain, and run over consecutive numbers, because only
such loops become vector instructions. A test checks this for Adam.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

BETAS = (0.9, 0.999)
EPSILON = 1e-8
"""Constants of torch.optim.Adam, at its defaults."""


_SOURCE_FILES = [
    *sorted(Path(__file__).parent.glob("*kernels.py")),
    Path(__file__).with_name("losses.py"),
    Path(__file__).parents[1] / "strata.py",
]

SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCE_FILES)).hexdigest()[:12]
"""Digest of all sources of the machine code. numba by itself checks the file of a function only, not those of
the functions that it calls and of the constants that it uses."""


def kernel(function: Callable) -> Any:
    """Compile a function at its first call, and cache the machine code by name and :data:`SOURCES`."""
    function.__qualname__ = f"{function.__qualname__}_{SOURCES}"
    # The numpy error model divides without asking for zero, or no loop with a division would use vectors.
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "nsz", "arcp"},
    }
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in can be written to
        return numba.njit(**options)(function)


ROWS_A_PASS = 32
"""Rows of a table worked on at once: they stay in the processor's first cache."""


class Trained(NamedTuple):
    """Parameter as (rows, columns) with Adam's two moments; changed in place."""

    value: NDArray
    first: NDArray
    second: NDArray


class Additive(NamedTuple):
    """Additive network: two tables of k numbers a row, weights (m, 2k) and biases (1, m).

    If the weights are two identities, side by side and fixed, the tables are the parts of the logits.
    """

    user: Trained
    item: Trained
    weight: Trained
    bias: Trained
    weight_is_identity: bool


class Adam(NamedTuple):
    """Settings of torch.optim.Adam, and the number of steps taken before."""

    n_before: int
    learning_rate: float
    weight_decay: float


class Rate(NamedTuple):
    """Numbers of one step of Adam, in the type of the parameters."""

    decay: Any
    new_first: Any
    old_second: Any
    new_second: Any
    size: Any
    scale: Any
    epsilon: Any


@kernel
def rate_of(step, learning_rate, weight_decay, one):  # type: ignore[no-untyped-def]
    """Compute the numbers of one step of Adam; steps count from 1."""
    first, second = BETAS
    number = type(one)
    return Rate(
        number(weight_decay),
        number(1 - first),
        number(second),
        number(1 - second),
        number(learning_rate / (1 - first**step)),
        number(1 / np.sqrt(1 - second**step)),
        number(EPSILON),
    )


@kernel
def _adam(value, first, second, gradient, rate):  # type: ignore[no-untyped-def]
    """Take one step of Adam on consecutive numbers; set the gradient to zero for the next."""
    decay, new_first, old_second = rate.decay, rate.new_first, rate.old_second
    new_second, size, scale, epsilon = rate.new_second, rate.size, rate.scale, rate.epsilon
    for j in range(len(value)):
        slope = gradient[j] + decay * value[j]
        mean = first[j] + new_first * (slope - first[j])
        square = old_second * second[j] + new_second * (slope * slope)
        first[j], second[j] = mean, square
        value[j] -= size * mean / (math.sqrt(square) * scale + epsilon)
        gradient[j] = 0


@kernel
def adam_all(parameter, gradient, rate):  # type: ignore[no-untyped-def]
    """Take one step of Adam on a whole parameter."""
    value, first, second = parameter.value, parameter.first, parameter.second
    _adam(value.reshape(-1), first.reshape(-1), second.reshape(-1), gradient.reshape(-1), rate)


@kernel
def _adam_outer(table, by_row, weight, rate):  # type: ignore[no-untyped-def]
    """Take one step of Adam on a table with gradient by_row (n, 1) @ weight (1, k), kept out of memory."""
    decay, new_first, old_second = rate.decay, rate.new_first, rate.old_second
    new_second, size, scale, epsilon = rate.new_second, rate.size, rate.scale, rate.epsilon
    along = weight[0]
    for row in range(len(by_row)):
        value, first, second = table.value[row], table.first[row], table.second[row]
        coefficient = by_row[row, 0]
        for j in range(len(along)):
            slope = coefficient * along[j] + decay * value[j]
            mean = first[j] + new_first * (slope - first[j])
            square = old_second * second[j] + new_second * (slope * slope)
            first[j], second[j] = mean, square
            value[j] -= size * mean / (math.sqrt(square) * scale + epsilon)


@kernel
def _add_product(out, left, right):  # type: ignore[no-untyped-def]
    """Add left @ right to out, five terms at a time, as CF-MTL has five strata and five logits."""
    n, k = right.shape
    for row in range(len(out)):
        to, term = out[row], 0
        while term + 5 <= n:
            a, b, c = left[row, term], left[row, term + 1], left[row, term + 2]
            d, e = left[row, term + 3], left[row, term + 4]
            of_a, of_b, of_c = right[term], right[term + 1], right[term + 2]
            of_d, of_e = right[term + 3], right[term + 4]
            for j in range(k):
                to[j] += ((a * of_a[j] + b * of_b[j]) + (c * of_c[j] + d * of_d[j])) + e * of_e[j]
            term += 5
        while term < n:
            a, of_a = left[row, term], right[term]
            for j in range(k):
                to[j] += a * of_a[j]
            term += 1


@kernel
def _step_table(table, by_row, weight, by_weight, rate):  # type: ignore[no-untyped-def]
    """Take one step of Adam on a table with gradient by_row @ weight; set by_row to zero.

    It adds the gradient of the weights, by_row.T @ table, to ``by_weight``.
    """
    n, k = table.value.shape
    value, first, second = table.value.reshape(-1), table.first.reshape(-1), table.second.reshape(-1)
    gradient = np.zeros((ROWS_A_PASS, k), value.dtype)
    for begin in range(0, n, ROWS_A_PASS):
        end = min(begin + ROWS_A_PASS, n)
        some, by_some = (
            Trained(table.value[begin:end], table.first[begin:end], table.second[begin:end]),
            by_row[begin:end],
        )
        _add_product(by_weight, by_some.T, some.value)
        if len(weight) == 1:
            _adam_outer(some, by_some, weight, rate)
        else:
            of_some, numbers = gradient[: end - begin], slice(begin * k, end * k)
            _add_product(of_some, by_some, weight)
            _adam(value[numbers], first[numbers], second[numbers], of_some.reshape(-1), rate)
    by_row[:] = 0


@kernel
def _project(table, weight, start, out):  # type: ignore[no-untyped-def]
    """Set out to table @ weight[:, start:start + k].T."""
    k = table.shape[1]
    for row in range(len(table)):
        value = table[row]
        for output in range(len(weight)):
            of_output = weight[output][start : start + k]
            total = table.dtype.type(0)
            for j in range(k):
                total += value[j] * of_output[j]
            out[row, output] = total


@kernel
def additive_logits(network, by_user, by_item):  # type: ignore[no-untyped-def]
    """Compute user and item part (with the bias) of the logits, (n_users, m) and (n_items, m)."""
    if network.weight_is_identity:
        by_user[:] = network.user.value
        by_item[:] = network.item.value
    else:
        _project(network.user.value, network.weight.value, 0, by_user)
        _project(network.item.value, network.weight.value, network.user.value.shape[1], by_item)
    for row in range(len(by_item)):
        for output in range(by_item.shape[1]):
            by_item[row, output] += network.bias.value[0, output]


@kernel
def additive_step(network, by_user, by_item, rate):  # type: ignore[no-untyped-def]
    """Take one step of Adam on an additive network; set the derivatives by its logits' parts to zero."""
    by_bias = np.zeros_like(network.bias.value)
    for row in range(len(by_item)):
        for output in range(by_item.shape[1]):
            by_bias[0, output] += by_item[row, output]
    if network.weight_is_identity:
        adam_all(network.user, by_user, rate)
        adam_all(network.item, by_item, rate)
    else:
        by_weight = np.zeros_like(network.weight.value)
        k = network.user.value.shape[1]
        for table, by_row, part in (
            (network.user, by_user, slice(0, k)),
            (network.item, by_item, slice(k, 2 * k)),
        ):
            of_part, by_part = network.weight.value[:, part].copy(), np.zeros_like(by_weight[:, part])
            _step_table(table, by_row, of_part, by_part, rate)
            by_weight[:, part] = by_part
        adam_all(network.weight, by_weight, rate)
    adam_all(network.bias, by_bias, rate)


@kernel
def _loss_and_slope(logit, target, one, cross_entropy):  # type: ignore[no-untyped-def]
    """Compute the cross-entropy or squared error of sigmoid(logit), and its derivative by the logit.

    ``one`` is 1 in the type of the logit, for a plain 1 would turn float32 into float64.
    """
    p = one / (one + math.exp(-logit))
    error = p - target
    if cross_entropy:
        return max(logit, one - one) - logit * target + math.log1p(math.exp(-abs(logit))), error
    return error * error, (error + error) * p * (one - p)


@kernel
def _additive_batch(  # type: ignore[no-untyped-def]
    of_user, of_item, user, item, target, cross_entropy, by_user, by_item
):
    """Compute the mean loss of a batch; add its derivatives by the two parts of the logits."""
    one = of_user.dtype.type(1)
    share = one / of_user.dtype.type(len(user))
    total = 0.0
    for row in range(len(user)):
        u, i = user[row], item[row]
        loss, slope = _loss_and_slope(of_user[u, 0] + of_item[i, 0], target[row], one, cross_entropy)
        total += loss
        by_user[u, 0] += slope * share
        by_item[i, 0] += slope * share
    return total / len(user)


@kernel
def additive_epoch(  # type: ignore[no-untyped-def]
    network, user, item, target, batch_size, cross_entropy, adam, losses
):
    """Take steps on consecutive batches of the rows; ``losses`` gets the mean loss of each."""
    dtype = network.user.value.dtype
    by_user = np.zeros((len(network.user.value), 1), dtype)
    by_item = np.zeros((len(network.item.value), 1), dtype)
    of_user, of_item = np.empty_like(by_user), np.empty_like(by_item)
    for step in range(len(losses)):
        rate = rate_of(adam.n_before + step + 1, adam.learning_rate, adam.weight_decay, dtype.type(1))
        rows = slice(step * batch_size, (step + 1) * batch_size)
        additive_logits(network, of_user, of_item)
        losses[step] = _additive_batch(
            of_user, of_item, user[rows], item[rows], target[rows], cross_entropy, by_user, by_item
        )
        additive_step(network, by_user, by_item, rate)


@kernel
def _factorisation_batch(  # type: ignore[no-untyped-def]
    user_table, item_table, user, item, target, cross_entropy, by_user, by_item
):
    """Compute the mean loss of a batch for the logit U_u . V_i; add its derivatives by both tables."""
    one = user_table.dtype.type(1)
    share = one / user_table.dtype.type(len(user))
    total = 0.0
    for row in range(len(user)):
        of_user, of_item = user_table[user[row]], item_table[item[row]]
        by_u, by_i = by_user[user[row]], by_item[item[row]]
        logit = one - one
        for j in range(len(of_user)):
            logit += of_user[j] * of_item[j]
        loss, slope = _loss_and_slope(logit, target[row], one, cross_entropy)
        total += loss
        slope *= share
        for j in range(len(of_user)):
            by_u[j] += slope * of_item[j]
        for j in range(len(of_user)):
            by_i[j] += slope * of_user[j]
    return total / len(user)


@kernel
def factorisation_epoch(  # type: ignore[no-untyped-def]
    user_table, item_table, user, item, target, batch_size, cross_entropy, adam, losses
):
    """Take steps of matrix factorisation on consecutive batches; ``losses`` gets the mean loss of each."""
    by_user, by_item = np.zeros_like(user_table.value), np.zeros_like(item_table.value)
    one = user_table.value.dtype.type(1)
    for step in range(len(losses)):
        rate = rate_of(adam.n_before + step + 1, adam.learning_rate, adam.weight_decay, one)
        rows = slice(step * batch_size, (step + 1) * batch_size)
        losses[step] = _factorisation_batch(
            user_table.value,
            item_table.value,
            user[rows],
            item[rows],
            target[rows],
            cross_entropy,
            by_user,
            by_item,
        )
        adam_all(user_table, by_user, rate)
        adam_all(item_table, by_item, rate)
