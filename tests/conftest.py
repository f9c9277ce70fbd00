import importlib
import pkgutil
import random
from pathlib import Path

import pytest
import torch

import cfmtl_lib


def pytest_configure(config):
    """Import the whole library before the examples of its modules are collected.

    pytest imports a module for its examples afresh unless it is there already. Of two copies of a module, a
    test could replace something in the one that does not run, depending on the order of the files.
    """
    here = Path(__file__).parent
    if all(Path(argument.split("::")[0]).resolve().is_relative_to(here) for argument in config.args):
        return  # no examples: tests import what they need
    for found in pkgutil.walk_packages(cfmtl_lib.__path__, "cfmtl_lib."):
        importlib.import_module(found.name)


def pytest_addoption(parser):
    parser.addoption(
        "--shuffle", type=int, metavar="SEED", help="run the files, and the tests of each, in a random order"
    )


def pytest_collection_modifyitems(config, items):
    """Shuffle files and the tests in each, so that no test can rest on what an earlier one left."""
    seed = config.getoption("--shuffle")
    if seed is None:
        return
    rng, files = random.Random(seed), {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    groups = list(files.values())
    for group in (groups, *groups):
        rng.shuffle(group)
    items[:] = [item for group in groups for item in group]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small fits are several times slower with threads that wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


collect_ignore = ["models/data_parallel_script.py"]  # run by torchrun, holds no test
