"""What each process of a data-parallel test does: fit, and leave losses and parameters behind."""

import os
import sys
import warnings

import torch
from test_engines import columns, network

from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.models.training import derive_generator, fit_probability, minimise
from cfmtl_lib.runtime.devices import resolve_device

CASES = [("ncf", 96, True), ("mf", 97, False), ("cells", 96, True), ("cells", 333, False)]
"""Network, batch size and whether the last batch is kept."""


def fits(engine):
    """Losses and parameters of every case."""
    found = []
    for kind, batch_size, keep_last_batch in CASES:
        model = network(kind, "embeddings")
        device = resolve_device("cpu")
        config = FitConfig(
            engine=engine,
            batch_size=batch_size,
            keep_last_batch=keep_last_batch,
            max_epochs=4,
            tolerance=0.0,
            patience=99,
        )
        # 961 rows: ten batches of 96 and one row, which two processes cannot share.
        rows = tuple(column[:961] for column in columns(kind))
        generator = derive_generator(0, "batches", device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # max_epochs
            if kind == "cells":
                history = minimise(model, model.loss, rows, config, generator=generator, label=kind)
            else:
                history = fit_probability(model, rows, config, generator=generator, label=kind)
        found.append((history.loss, [p.detach() for p in model.parameters()]))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save(fits("data-parallel"), f"{sys.argv[1]}/{os.environ['RANK']}.pt")
