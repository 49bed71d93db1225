from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: models this small lose more to waiting for a second than it gains them."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def restore_num_threads() -> Iterator[None]:
    """Lets a test set the number of torch's threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_random_numbers_leak() -> Iterator[None]:
    """Fail a test that draws from torch's global generator, which would make the tests after it depend on it."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)
