"""Fixtures of all tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    """Figures that do not depend on the number of cores, and tests side by side that do not wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
