"""The house of CONTRIBUTING.md: imports run down the floors, without circles, and rooms stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parent.parent / "cfmtl_lib"
FLOORS = (
    ("errors", "devices", "strata", "progress", "threads", "results", "reported", "notebook_io"),
    (
        "fit_config",
        "row_source",
        "parquet_log",
        "compiled",
        "compiled_cells",
        "steps",
        "training",
        "protocol",
        "logs",
        "networks",
        "cells",
        "policy",
        "plots",
        "fitcache",
        "pictures",
        "diagrams",
        "explorer",
        "frames",
        "log_columns",
        "schema",
        "likelihood",
        "conventions",
        "feature_networks",
        "arms",
    ),
    (
        "nuisances",
        "learners",
        "feature_nuisances",
        "feature_cells",
        "two_stage",
        "model_parts",
        "storage",
        "scoring",
        "selection",
        "estimators",
        "cfmtl",
        "datasets",
        "methods",
        "pair_classifier",
        "richer_nuisances",
        "value",
    ),
    (
        "runs",
        "tables",
        "variants",
        "sensitivity",
        "identification",
        "loss_weights",
        "disagreements",
        "ledger",
        "montecarlo",
        "policy_check",
        "feature_accuracy",
        "coupon_study",
        "cash_trial",
        "cash_targeting",
        "verdicts",
    ),
)
MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path.name != "__init__.py")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(LIBRARY).with_suffix("").parts)


def floor_of(module: str) -> int:
    return next(k for k, rooms in enumerate(FLOORS) if module.split(".")[0] in rooms)


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cfmtl_lib"):
            found.add((node.module or "").removeprefix("cfmtl_lib").lstrip("."))
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("cfmtl_lib.")
                for alias in node.names
                if alias.name.startswith("cfmtl_lib")
            }
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_down(path):
    for imported in imports_of(path):
        assert imported, "a module imports the package itself: import the module it needs"
        assert floor_of(imported) <= floor_of(name_of(path)), (
            f"{name_of(path)} imports {imported}, a floor above"
        )


def test_no_circles():
    arrows = {name_of(path): imports_of(path) for path in MODULES}
    done: set[str] = set()
    while len(done) < len(arrows):
        free = {name for name, needs in arrows.items() if name not in done and needs & arrows.keys() <= done}
        assert free, f"circle among {sorted(arrows.keys() - done)}"
        done |= free


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_rooms_stay_small(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420, "split it in two"


def test_the_map_in_contributing_names_every_room():
    text = (LIBRARY.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for rooms in FLOORS:
        for room in rooms:
            assert f"`{room}.py`" in text or f"`{room}/`" in text, room
    for path in MODULES:
        floor_of(name_of(path))


def test_every_module_is_in_the_api_reference():
    text = (LIBRARY.parent / "book" / "api.md").read_text(encoding="utf-8")
    internal = {"datasets.readers", "compiled", "compiled_cells"}
    for path in MODULES:
        assert (f"cfmtl_lib.{name_of(path)}\n" in text) != (name_of(path) in internal), name_of(path)


def test_torch_has_loaded_everything_before_threads_fit():
    """Its late imports parse source code, which two threads of CPython 3.11 cannot do at once."""
    code = (
        "import ast, threading, cfmtl_lib as cf\n"
        "parse = ast.parse\n"
        "def watched(*args, **kwargs):\n"
        "    assert threading.current_thread() is threading.main_thread(), 'parses in a thread'\n"
        "    return parse(*args, **kwargs)\n"
        "ast.parse = watched\n"
        "small = cf.simulated(n_users=30, n_items=30, n_pairs=800)\n"
        "cf.fit_methods(small, ['OR', 'CF-MTL'], n_jobs=2)\n"
        "from cfmtl_lib import runs\n"
        "runs.load_study = lambda *args, **kwargs: small\n"
        "cf.table4(seeds=2, construction='authors', methods=['OR'], n_jobs=2, progress=False)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
