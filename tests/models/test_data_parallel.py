"""Processes of torchrun share a fit, and find what one process finds on the same batches."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from data_parallel_script import CASES, fits
from test_engines import network

from cfmtl_lib.errors import InputError
from cfmtl_lib.models import engines
from cfmtl_lib.models.config import FitConfig
from cfmtl_lib.runtime.threads import run_parallel


def test_two_processes_have_the_loss_curve_of_one(tmp_path):
    here = Path(__file__).parent
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(here / "data_parallel_script.py", tmp_path),
        ],
        check=True,
        timeout=300,
    )
    alone = fits("torch")
    for rank in (0, 1):
        shared = torch.load(tmp_path / f"{rank}.pt")
        assert len(shared) == len(CASES)
        for (losses, parameters), (expected_losses, expected) in zip(shared, alone, strict=True):
            np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
            for ours, theirs in zip(parameters, expected, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_a_process_by_itself_is_told_how_to_start(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    model = network("ncf", "embeddings")
    config = FitConfig(engine="data-parallel")
    with pytest.raises(InputError, match=r"found a process by itself. Start the script by: torchrun"):
        engines.steps_for(model, engines.ProbabilityLoss(model, "squared_error"), config)
    with pytest.raises(InputError, match=r"expected a loss of the paper"):
        engines.steps_for(model, lambda user, item, target: model(user, item).sum(), config)


def test_fits_side_by_side_cannot_share_processes():
    model = network("ncf", "embeddings")
    loss = engines.ProbabilityLoss(model, "squared_error")
    jobs = [lambda: engines.steps_for(model, loss, FitConfig(engine="data-parallel"))] * 2
    with pytest.raises(InputError, match=r"expected one fit at a time.* Use n_jobs=1"):
        run_parallel(jobs, 2)
