"""Time and peak memory of the value of policies on many rows, with the nuisances given.

Run ``python benchmarks/value_scale.py``: 1,260,263 simulated rows, as many as in the training log of ML-1M.
Each step is run once. The peak is that of the whole process, Python and torch included.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

import cfmtl_lib as cf
from cfmtl_lib import value

MAKES_KILOBYTES = 1024


def measure(n_rows: int, n_bootstrap: int) -> dict[str, float]:
    """Measure seconds by step, their sum, and the peak memory in gigabytes."""
    study = cf.simulated_features(n_rows, seed=0)
    log, nuisances = study.log, study.true_nuisances
    rng = np.random.default_rng(0)
    score = study.strata_probability[:, 3] + rng.normal(0, 0.02, n_rows)
    other = study.strata_probability[:, 3] + rng.normal(0, 0.1, n_rows)
    user = rng.integers(0, 6040, n_rows)
    treat, control = cf.allocate(score, 0.4), cf.allocate(other, 0.4)
    curve: dict[str, Any] = {"clusters": user, "n_bootstrap": n_bootstrap}
    strength: dict[str, Any] = {"outcome_strength": 0.05, "treatment_strength": 0.05}
    steps: dict[str, Callable[[], object]] = {
        "policy_value": lambda: cf.policy_value(treat, log, nuisances, clusters=user, cost=0.4),
        "policy_value_difference": lambda: cf.policy_value_difference(
            treat, control, log, nuisances, cost=0.4
        ),
        "strata_shares": lambda: cf.strata_shares(log, nuisances, clusters=user),
        "budget_curve": lambda: cf.budget_curve(score, log, nuisances, **curve),
        "budget_curve by spend": lambda: cf.budget_curve(score, log, nuisances, by="spend", **curve),
        "budget_curve_difference": lambda: cf.budget_curve_difference(score, other, log, nuisances, **curve),
        "overlap": lambda: value.overlap(log, nuisances),
        "balance": lambda: value.balance(log, nuisances, pd.DataFrame(log.x)),
        "propensity_calibration": lambda: value.propensity_calibration(log, nuisances),
        "check_implications": lambda: value.check_implications(log, nuisances),
        "confounding_bound": lambda: value.confounding_bound(treat, log, nuisances, **strength),
        "strata_bounds": lambda: value.strata_bounds(log, nuisances, monotonicity=False),
    }
    seconds = {}
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        seconds[name] = round(time.perf_counter() - start, 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MAKES_KILOBYTES**2
    return seconds | {"all": round(sum(seconds.values()), 2), "peak_gigabytes": round(peak, 2)}


def main() -> None:
    """Print the measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_260_263)
    parser.add_argument("--bootstrap", type=int, default=400)
    options = parser.parse_args()
    print(json.dumps({"rows": options.rows} | measure(options.rows, options.bootstrap), indent=1))


if __name__ == "__main__":
    main()
