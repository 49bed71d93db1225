import faulthandler
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

Quickstart = tuple[Path, subprocess.CompletedProcess[str]]


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
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    """The output of `python -m tokenizer_jobs run configs/quickstart.yaml`, and what the command said."""
    output = tmp_path_factory.mktemp("quickstart") / "out"
    words = [sys.executable, "-m", "tokenizer_jobs", "run", "configs/quickstart.yaml", "--output", str(output)]
    repository = Path(__file__).parents[1]
    return output, subprocess.run(words, cwd=repository, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One private Ray for all tests that can share it: 2 CPUs, 2 GPUs that exist in name only, 2 encoder slots."""
    # Here, not above: most tests need no Ray, and it takes a second to import.
    from tokenizer_jobs.cluster.session import private_ray

    # By default metrics are handed on every 10 s, for which the test of them would wait. The driver reads it too.
    os.environ["RAY_metrics_report_interval_ms"] = "1000"  # noqa: SIM112  # Ray spells it so
    # A Ray that does not start waits for ever; this ends the process instead and says where it waited.
    faulthandler.dump_traceback_later(120, exit=True)
    with private_ray(num_cpus=2, encoder_slots=2, num_gpus=2, metrics=True):
        faulthandler.cancel_dump_traceback_later()
        yield
        faulthandler.dump_traceback_later(120, exit=True)
    faulthandler.cancel_dump_traceback_later()
