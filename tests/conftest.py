import importlib
import pkgutil

import pytest
import torch

import cfmtl_lib

# pytest imports a module for its examples afresh unless it is there already. Two copies of a module would
# make what a test replaces in one of them depend on the order of the files.
for found in pkgutil.walk_packages(cfmtl_lib.__path__, "cfmtl_lib."):
    importlib.import_module(found.name)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small fits are several times slower with threads that wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


collect_ignore = ["models/data_parallel_script.py"]  # run by torchrun, holds no test
