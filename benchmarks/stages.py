"""Seconds of each stage of a study, by implementation, and of an epoch against its memory traffic.

    python benchmarks/stages.py --dataset ml-1m --data-dir PATH --results-dir results

Fits are timed by the epoch. The reference and the plain PyTorch path use all threads. The compiled path uses
one, besides the one that lays out its batches. The log comes from a study whose two networks are untrained:
seconds of an epoch do not depend on what is in the log.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import reference_loop as plain
import torch
from measuring import (
    load_kernels,
    parser_of,
    public_command,
    public_name,
    ratings_of,
    say,
    seconds_of,
)
from sklearn.exceptions import ConvergenceWarning

import cfmtl_lib as cf
from cfmtl_lib.datasets.construction import ConstructionNetworks
from cfmtl_lib.datasets.ratings import Ratings
from cfmtl_lib.datasets.study import Study
from cfmtl_lib.models.pair_networks import AdditiveNetwork, FactorizationNetwork, predict_probability
from cfmtl_lib.models.training import derive_generator, fit_probability, new_network
from cfmtl_lib.nuisances.moments import MOMENTS
from cfmtl_lib.nuisances.pair_nuisances import training_columns
from cfmtl_lib.protocol import PAPER
from cfmtl_lib.runtime.devices import resolve_device
from cfmtl_lib.runtime.provenance import RunRecord, save_results
from cfmtl_lib.strata import STRATA

EPOCHS = 3
"""Epochs of a timed fit. They share the time before the first, which hardly counts in a fit of thirty."""

ENGINES: dict[str, dict[str, str]] = {
    "torch": {"engine": "torch"},
    "library": {},
    "additive": {"parametrisation": "additive"},
}
"""The plain path, the path a user gets, and the path a user gets with the option."""

FLOAT, ID, POSITION = 4, 4, 8
"""Bytes of a parameter, of a user or item in a laid-out batch, and of a row's position."""


def untrained_networks(ratings: Ratings, seed: int) -> ConstructionNetworks:
    """Make the networks that a construction needs, without fitting them."""
    generator = derive_generator(seed, "benchmark", resolve_device("cpu"))
    sizes = (ratings.n_users, ratings.n_items, PAPER.nuisance.embedding_k)
    return ConstructionNetworks(
        AdditiveNetwork(*sizes, generator=generator),
        FactorizationNetwork(*sizes, generator=generator, embedding_sd=0.3),
    )


def plain_networks(ratings: Ratings) -> tuple[plain.PlainNCF, plain.PlainMF]:
    """Make the same networks for the reference."""
    mf = plain.PlainMF(ratings.n_users, ratings.n_items)
    with torch.no_grad():
        mf.user.weight.mul_(0.3)
    return plain.PlainNCF(ratings.n_users, ratings.n_items), mf


Work = Callable[[], object]


def fit_stages(study: Study, ratings: Ratings, seed: int) -> dict[tuple[str, str], Work]:
    """Prepare a fit of :data:`EPOCHS` epochs for each kind of network and implementation."""
    log, device = study.train, resolve_device("cpu")
    space = log.pair_space
    x, t, c, y = log.x, *(column.astype(np.float32) for column in (log.t, log.c, log.y))
    rated = (ratings.pairs, ratings.outcome.astype(np.float32))
    rng = np.random.default_rng(seed)

    def reference(kind: str) -> None:
        options: dict[str, Any] = {"tolerance": 0.0, "max_epochs": EPOCHS}
        if kind == "CF-MTL":
            strata, propensity = plain.PlainNCF(*space, n_outputs=len(STRATA)), plain.PlainNCF(*space)
            plain.fit(
                torch.nn.ModuleList([strata, propensity]),
                lambda *b: plain.cell_loss(
                    strata, propensity, b, weights=plain.JOINT_WEIGHTS, propensity_weight=0.5
                ),
                (x, t, c, y),
                rng,
                **options,
            )
        elif kind == "NCF":
            ncf = plain.PlainNCF(*space)
            plain.fit(ncf, lambda *b: plain.squared_error(ncf, *b), (x, y), rng, **options)
        else:
            mf = plain.PlainMF(*space)
            small = {"batch_size": PAPER.construction["authors"].assignment.batch_size}
            loss = plain.squared_error if kind == "MF" else plain.cross_entropy
            columns = (x, y) if kind == "MF" else rated
            plain.fit(mf, lambda *b: loss(mf, *b), columns, rng, **options, **({} if kind == "MF" else small))

    def library(kind: str, change: dict[str, str]) -> None:
        config = replace(PAPER.nuisance, max_epochs=EPOCHS, tolerance=0.0, patience=EPOCHS + 1, **change)  # type: ignore[arg-type]
        if kind == "CF-MTL":
            cf.CFMTL(config=config, device="cpu", seed=seed).fit(log)
            return
        generator = derive_generator(seed, kind, device)
        columns: Any = training_columns(log, lambda rows: rows.y, device)
        network: AdditiveNetwork | FactorizationNetwork
        if kind == "NCF":
            network = new_network(AdditiveNetwork, space, config, generator=generator)
        else:
            network = new_network(FactorizationNetwork, space, config, generator=generator)
        if kind == "MF of the construction":
            config = replace(config, batch_size=PAPER.construction["authors"].assignment.batch_size)
            config = replace(config, loss="cross_entropy")
            columns = tuple(torch.tensor(column) for column in (*rated[0].T, rated[1]))
        fit_probability(network, columns, config, generator=generator, label=kind)

    stages: dict[tuple[str, str], Work] = {}
    for kind in ("NCF", "MF", "MF of the construction", "CF-MTL"):
        stages[kind, "reference"] = lambda kind=kind: reference(kind)  # type: ignore[misc]
        for name, change in ENGINES.items():
            if name != "additive" or not kind.startswith("MF"):
                stages[kind, name] = lambda kind=kind, change=change: library(kind, change)  # type: ignore[misc]
    return stages


def other_stages(study: Study, ratings: Ratings, seed: int) -> dict[tuple[str, str], Work]:
    """Prepare the stages that are no fits."""
    x, stratum = study.test.x, study.test.stratum
    networks = untrained_networks(ratings, seed)
    ncf, mf = plain_networks(ratings)
    generator = derive_generator(seed, "strata", resolve_device("cpu"))
    strata = AdditiveNetwork(*study.train.pair_space, 64, len(STRATA), generator=generator)
    plain_strata = plain.PlainNCF(*study.train.pair_space, n_outputs=len(STRATA))
    reward = cf.expected_reward(predict_probability(strata, x), "coupon", PAPER.cost)
    log = study.train
    propensity = log.propensity
    assert propensity is not None
    moments = {name: np.full(len(log), 0.5) for name in MOMENTS}
    nuisances = cf.LogNuisances.from_means(propensity, moments)
    treat = cf.allocate(np.random.default_rng(seed).random(len(log)), PAPER.budget)

    def construct(unrated_of: Callable[[Ratings], np.ndarray]) -> None:
        plain.label_and_split(ratings, ncf, mf, np.random.default_rng(seed), unrated_of)

    return {
        ("construction without its fits", "reference"): lambda: construct(plain.unrated_by_lists),
        ("construction without its fits", "reference, by a mask"): lambda: construct(plain.unrated_by_mask),
        ("construction without its fits", "library"): lambda: cf.semisynthetic(
            ratings, seed=seed, device="cpu", networks=networks
        ),
        ("prediction", "reference"): lambda: plain.predict(plain_strata, x),
        ("prediction", "library"): lambda: predict_probability(strata, x),
        ("allocation", "reference"): lambda: plain.earned(reward, stratum.astype(np.int64)),
        ("allocation", "library"): lambda: cf.count_outcomes(
            cf.allocate(reward, PAPER.budget), stratum, "coupon", PAPER.cost
        ),
        ("value with its error", "library"): lambda: cf.policy_value(treat, log, nuisances, cost=0.4),
    }


def bytes_of_epoch(kind: str, n_rows: int, pair_space: tuple[int, int]) -> int:
    """Count the bytes that an epoch of the compiled path must move, each read and each write once.

    A step reads and writes every embedding and its two moments. Where logits are additive, it reads the
    embeddings once more for them. MF instead writes and reads a gradient as large as the embeddings. A row
    is drawn (position written and read), gathered (read, written) and used (read).
    """
    k, batch_size = PAPER.nuisance.embedding_k, PAPER.nuisance.batch_size
    table = sum(pair_space) * k * FLOAT
    times = {"NCF": 7, "MF": 6 + 2, "CF-MTL": 2 * 7}[kind]  # MF writes and reads a gradient of that size
    target = 1 if kind == "CF-MTL" else FLOAT
    row = 2 * POSITION + 3 * (2 * ID + target)
    return n_rows // batch_size * times * table + n_rows // batch_size * batch_size * row


def copy_bandwidth(n_bytes: int) -> float:
    """Measure bytes a second, read and written, of copying so many bytes repeatedly in one thread."""
    source, target = np.ones(n_bytes // 8), np.empty(n_bytes // 8)
    turns = max(1, int(2e9 / n_bytes))

    def copies() -> None:
        for _ in range(turns):
            np.copyto(target, source)

    copies()
    return turns * 2 * source.nbytes / min(seconds_of(copies) for _ in range(3))


def roofline(stages: pd.DataFrame, n_rows: int, pair_space: tuple[int, int]) -> pd.DataFrame:
    """Compare seconds of an epoch with those that its bytes take at the measured copy bandwidth."""
    state = 3 * sum(pair_space) * PAPER.nuisance.embedding_k * FLOAT
    bandwidth = {"cache": copy_bandwidth(state), "memory": copy_bandwidth(1 << 28)}
    rows = []
    for kind in ("NCF", "MF", "CF-MTL"):
        measured = stages[(stages["stage"] == f"{kind} epoch") & (stages["implementation"] == "library")]
        moved = bytes_of_epoch(kind, n_rows, pair_space)
        rows.append(
            {"stage": f"{kind} epoch", "gigabytes": moved / 1e9}
            | {f"{where}_gigabytes_a_second": speed / 1e9 for where, speed in bandwidth.items()}
            | {f"{where}_seconds": moved / speed for where, speed in bandwidth.items()}
            | {"measured_seconds": measured["seconds"].median()}
        )
    return pd.DataFrame(rows).round(4)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", ConvergenceWarning)  # a few epochs are no fit
    folder = Path(options.results_dir) / "benchmarks"
    record = RunRecord(public_command(__file__, options), [options.seed], folder)
    ratings = ratings_of(options)
    study = cf.semisynthetic(
        ratings, seed=options.seed, device="cpu", networks=untrained_networks(ratings, options.seed)
    )
    compile_seconds = load_kernels()
    fits = fit_stages(study, ratings, options.seed)
    others = other_stages(study, ratings, options.seed)
    rows = []
    for turn in range(options.rounds):
        for stages, share, unit in ((fits, EPOCHS, " epoch"), (others, 1, "")):
            for (stage, implementation), work in stages.items():
                seconds = seconds_of(work) / share
                rows.append(
                    {"stage": stage + unit, "implementation": implementation}
                    | {"round": turn, "seconds": round(seconds, 5)}
                )
                say(f"round {turn + 1} of {options.rounds}, {stage}{unit}, {implementation}: {seconds:.3f} s")
    table = pd.DataFrame(rows)
    files = save_results(
        {"stages": table, "roofline": roofline(table, len(study.train), study.train.pair_space)},
        folder,
        record.finish(
            data_fingerprint=ratings.fingerprint,
            dataset=public_name(options.dataset),
            device="cpu",
            threads=options.threads,
            log_rows=len(study.train),
            epochs_a_fit=EPOCHS,
            seconds_to_load_kernels=round(compile_seconds, 1),
        ),
    )
    print(report(table))
    say("wrote " + ", ".join(map(str, files)))
    return 0


def report(table: pd.DataFrame) -> str:
    """Format median seconds and ratios to the reference, one line for each stage."""
    median = table.groupby(["stage", "implementation"], sort=False)["seconds"].median().unstack(sort=False)
    ratios = 1 / median.div(median["reference"], axis=0)
    return (
        f"Median seconds:\n{median.round(4).to_string()}\n\n"
        f"Times faster than the reference:\n{ratios.round(1).to_string()}"
    )


def _parser() -> argparse.ArgumentParser:
    return parser_of("Seconds of each stage of a study, by implementation.", rounds=5)


if __name__ == "__main__":
    sys.exit(main())
