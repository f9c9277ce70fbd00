import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small fits are several times slower with threads that wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


collect_ignore = ["models/data_parallel_script.py"]  # run by torchrun, holds no test
