"""Comparison of a GPU with the CPU, for its owner: equal results, and time.

    python benchmarks/gpu.py                 # the first CUDA device
    python benchmarks/gpu.py --device cpu    # tries the script itself, where there is no GPU

1. Equality. Every network is trained for some steps on the CPU and on the device, in float64. Both start
   from the same initial values and see the same batches. Losses and parameters must agree to 1e-7: exit
   code 1 if they do not.
2. Time of an epoch in float32, by batch size, on the CPU (the path a user gets there) and on the device.
3. Mixed precision (bfloat16 autocast): its losses beside those of float32. No option of the library offers
   it; this says whether it would be safe here.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from measuring import positive, say, seconds_of
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.losses import CellNetwork, ProbabilityLoss
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork
from cfmtl_lib.models.training import derive_generator, minimise, parametrised
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.strata import CELLS, STRATA

KINDS = ("NCF", "MF", "CF-MTL", "NCF, additive", "CF-MTL, additive")
TOLERANCE = 1e-7
"""Largest relative difference in float64 that the order of summation may explain."""

LOW_PRECISION_TOLERANCE = 1e-3
"""Largest relative difference of an epoch's loss at which mixed precision counts as safe."""


class SameBatches:
    """Rows in an order drawn on the CPU, so that two devices see the same batches."""

    def __init__(self, columns: Sequence[Tensor], device: torch.device, seed: int) -> None:
        self.columns, self.device, self.seed = columns, device, seed
        self.n_epochs = 0

    def __len__(self) -> int:
        return len(self.columns[0])

    def epoch(
        self, batch_size: int, keep_last_batch: bool, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield the rows as one chunk."""
        order = np.random.default_rng([self.seed, self.n_epochs]).permutation(len(self))
        self.n_epochs += 1
        n_used = len(self) if keep_last_batch else len(self) // batch_size * batch_size
        rows = torch.from_numpy(order[:n_used])
        yield tuple(column[rows].to(self.device) for column in self.columns)


def network_of(kind: str, sizes: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Any:
    """Make a network with initial values drawn on the CPU."""
    config = FitConfig(parametrisation="additive" if kind.endswith("additive") else "embeddings")
    generator = derive_generator(0, kind.split(",")[0], resolve_device("cpu"))

    def additive(n_outputs: int) -> AdditiveNetwork:
        fresh = AdditiveNetwork(
            *sizes, config.embedding_k, n_outputs, generator=generator, embedding_sd=0.3, dtype=dtype
        )
        return parametrised(fresh, config)

    if kind == "MF":
        network: Any = FactorizationNetwork(
            *sizes, config.embedding_k, generator=generator, embedding_sd=0.3, dtype=dtype
        )
    elif kind.startswith("NCF"):
        network = additive(1)
    else:
        network = CellNetwork(
            additive(len(STRATA)),
            additive(1),
            weights=PAPER.joint_weights,
            propensity_floor=PAPER.joint_propensity_floor,
            propensity_weight=PAPER.propensity_weight,
        )
    return network.to(device)


def columns_of(kind: str, n: int, sizes: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Draw rows on the CPU."""
    rng = np.random.default_rng(0)
    user, item = (torch.from_numpy(rng.integers(0, size, n)) for size in sizes)
    if kind.startswith("CF-MTL"):
        return user, item, torch.from_numpy(rng.integers(0, len(CELLS), n).astype(np.int8))
    return user, item, torch.from_numpy((rng.random(n) < 0.5).astype(np.float64)).to(dtype)


def fit(
    kind: str,
    device: torch.device,
    config: FitConfig,
    options: argparse.Namespace,
    dtype: torch.dtype,
    low_precision: bool = False,
    same_batches: bool = True,
) -> tuple[list[float], list[Tensor], float]:
    """Fit a network; return its losses, its parameters on the CPU and the seconds of an epoch.

    With ``same_batches`` the rows are copied to the device in each epoch. Without, as users have it, they
    are stored and shuffled on the device.
    """
    sizes = (options.users, options.items)
    network = network_of(kind, sizes, dtype, device)
    of_cells = isinstance(network, CellNetwork)
    objective: Any = network.loss if of_cells else ProbabilityLoss(network, config.loss)
    if low_precision:
        plain = objective

        def objective(*batch: Tensor) -> Tensor:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                return plain(*batch)

    columns = columns_of(kind, options.rows, sizes, dtype)
    on_device = tuple(column.to(device) for column in columns)
    source = SameBatches(columns, device, 0) if same_batches else on_device
    found: list[Any] = []

    def work() -> None:
        generator = derive_generator(0, "batches", device)
        found.append(minimise(network, objective, source, config, generator=generator, label=kind))
        torch.cat([p.detach().reshape(-1) for p in network.parameters()]).sum().item()  # waits for the device

    seconds = seconds_of(work) / config.max_epochs
    return found[0].loss, [p.detach().cpu() for p in network.parameters()], seconds


def equality(device: torch.device, options: argparse.Namespace) -> pd.DataFrame:
    """Find the largest relative differences in float64 between CPU and device."""
    config = FitConfig(engine="torch", max_epochs=3, tolerance=0.0, patience=99, batch_size=options.batch)
    rows = []
    for kind in KINDS:
        here = fit(kind, resolve_device("cpu"), config, options, torch.float64)
        there = fit(kind, device, config, options, torch.float64)
        of_losses = max(abs(a - b) / abs(a) for a, b in zip(here[0], there[0], strict=True))
        of_parameters = max(
            float((a - b).abs().max() / a.abs().max()) for a, b in zip(here[1], there[1], strict=True)
        )
        rows.append({"network": kind, "loss": of_losses, "parameters": of_parameters})
        say(f"equality, {kind}: {of_losses:.1e} (losses), {of_parameters:.1e} (parameters)")
    table = pd.DataFrame(rows)
    table["equal"] = (table["loss"] < TOLERANCE) & (table["parameters"] < TOLERANCE)
    return table


def timing(device: torch.device, options: argparse.Namespace) -> pd.DataFrame:
    """Measure seconds of an epoch in float32 by batch size, CPU and device; the better of two."""
    rows = []
    for kind in KINDS:
        for batch_size in (options.batch, 8 * options.batch):
            config = FitConfig(max_epochs=2, tolerance=0.0, patience=99, batch_size=batch_size)
            seconds = {
                name: min(
                    fit(kind, where, config, options, torch.float32, same_batches=False)[2] for _ in range(2)
                )
                for name, where in (("cpu", resolve_device("cpu")), ("device", device))
            }
            rows.append(
                {"network": kind, "batch": batch_size, **seconds, "ratio": seconds["cpu"] / seconds["device"]}
            )
            say(f"timing, {rows[-1]}")
    return pd.DataFrame(rows)


def low_precision(device: torch.device, options: argparse.Namespace) -> pd.DataFrame:
    """Compare losses of mixed precision with those of float32, on the device."""
    config = FitConfig(engine="torch", max_epochs=3, tolerance=0.0, patience=99, batch_size=options.batch)
    rows = []
    for kind in KINDS:
        full = fit(kind, device, config, options, torch.float32)
        try:
            mixed = fit(kind, device, config, options, torch.float32, low_precision=True)
        except RuntimeError as error:  # gradients that are written out know one type only
            say(f"mixed precision, {kind}: {error}")
            rows.append({"network": kind, "loss": math.nan, "safe": False, "ratio": math.nan})
            continue
        difference = max(abs(a - b) / abs(a) for a, b in zip(full[0], mixed[0], strict=True))
        rows.append(
            {"network": kind, "loss": difference, "safe": difference < LOW_PRECISION_TOLERANCE}
            | {"ratio": full[2] / mixed[2]}
        )
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    warnings.simplefilter("ignore", ConvergenceWarning)  # a few epochs are no fit
    device = resolve_device(options.device)
    same = equality(device, options)
    print(f"Equality in float64, CPU against {device}:\n{same.to_string(index=False)}\n")
    print(f"Seconds of an epoch in float32:\n{timing(device, options).to_string(index=False)}\n")
    print(f"Mixed precision (bfloat16):\n{low_precision(device, options).to_string(index=False)}\n")
    if not same["equal"].all():
        say(f"{device} does not compute what the CPU computes: do not trust its fits, and tell us.")
        return 1
    print(f"{device} computes what the CPU computes.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Equality and time of CPU and GPU, in one command.")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, xpu, or cpu to try the script")
    parser.add_argument("--rows", type=positive, default=1_260_263)
    parser.add_argument("--users", type=positive, default=6040)
    parser.add_argument("--items", type=positive, default=3952)
    parser.add_argument("--batch", type=positive, default=PAPER.joint.batch_size)
    return parser


if __name__ == "__main__":
    sys.exit(main())
