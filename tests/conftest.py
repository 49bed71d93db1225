import faulthandler
import os
from collections.abc import Iterator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="this machine has a GPU: what wants one fails without it")
    parser.addoption("--long", action="store_true", help="also run what takes minutes: many more broken files")


@pytest.fixture(scope="session")
def gpu(request: pytest.FixtureRequest) -> Any:
    """The GPU, as a torch device. Without one a test is skipped, unless the run says that there is one."""
    import torch  # here, because most tests of the service need none

    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if request.config.getoption("--gpu"):
        pytest.fail(f"--gpu says that there is a GPU, and torch {torch.__version__} sees none")
    pytest.skip("there is no GPU; on a machine with one: python -m pytest --gpu, and the file's name")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> None:
    """Skips a test that takes minutes, unless the run asks for those."""
    if not request.config.getoption("--long"):
        pytest.skip("takes minutes; python -m pytest --long runs it")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One private Ray for all tests that can share it: 2 CPUs, 2 GPUs that exist in name only, 2 encoder slots."""
    # Here, not above: most tests need no Ray, and it takes a second to import.
    from tokenizer_jobs.cluster.session import private_ray

    # By default metrics are handed on every 10 s, for which the test of them would wait. The driver reads it too.
    os.environ["RAY_metrics_report_interval_ms"] = "1000"  # noqa: SIM112  # Ray spells it so
    # A Ray that does not start waits for ever; this ends the process instead and says where it waited.
    faulthandler.dump_traceback_later(120, exit=True)
    with private_ray(num_cpus=2, encoder_slots=2, num_gpus=2):
        faulthandler.cancel_dump_traceback_later()
        yield
        faulthandler.dump_traceback_later(120, exit=True)
    faulthandler.cancel_dump_traceback_later()
