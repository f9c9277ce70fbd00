"""Measure how long the library takes to import beyond torch, in processes of their own.

``python benchmarks/import_time.py`` prints medians of seconds: of ``import cfmtl_lib`` alone, of the first
estimator, and of all public names. ``--against FOLDER`` measures another checkout in the same run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from measuring import positive, say

STEPS = {
    "import cfmtl_lib": "import cfmtl_lib as cf",
    "and the first estimator": "import cfmtl_lib as cf; cf.CFMTL",
    "and all public names": "import cfmtl_lib as cf; [getattr(cf, name) for name in cf.__all__]",
}
HEAVY = ("matplotlib", "skops", "scipy.stats")


def seconds_beyond_torch(code: str, folder: Path) -> tuple[float, str]:
    """Run code in a new process; give its seconds without those of torch, and the heavy modules loaded."""
    program = (
        "import sys, time, torch; start = time.perf_counter()\n"
        f"{code}\n"
        f"print(time.perf_counter() - start, *[m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,  # comes first on the path of python -c
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, *heavy = done.stdout.split()
    return float(seconds), ", ".join(heavy)


def main() -> None:
    """Print a table of medians, and ratios to the other checkout if there is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--against", type=Path, help="folder of another checkout")
    options = parser.parse_args()
    folders = {"this": Path(__file__).resolve().parents[1]}
    if options.against is not None:
        folders["other"] = options.against.resolve()
    found: dict[tuple[str, str], list[float]] = {}
    loaded: dict[tuple[str, str], str] = {}
    for _ in range(options.rounds):  # in turn, so that other work on the machine hits all alike
        for step, code in STEPS.items():
            for name, folder in folders.items():
                seconds, loaded[step, name] = seconds_beyond_torch(code, folder)
                found.setdefault((step, name), []).append(seconds)
    for step in STEPS:
        medians = {name: statistics.median(found[step, name]) for name in folders}
        ratio = f", {medians['this'] / medians['other']:.0%} of the other" if "other" in medians else ""
        heavy = loaded[step, "this"] or "none"
        say(f"{step}: {medians['this']:.3f} s beyond torch{ratio}; of {', '.join(HEAVY)} it loads: {heavy}")


if __name__ == "__main__":
    main()
