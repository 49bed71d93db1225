import faulthandler
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One private Ray for all tests that can share it: 2 CPUs, 2 GPUs that exist in name only, 2 encoder slots."""
    # Here, not above: most tests need no Ray, and it takes a second to import.
    from tokenizer_jobs.cluster.session import private_ray

    # A Ray that does not start waits for ever; this ends the process instead and says where it waited.
    faulthandler.dump_traceback_later(120, exit=True)
    with private_ray(num_cpus=2, encoder_slots=2, num_gpus=2):
        faulthandler.cancel_dump_traceback_later()
        yield
        faulthandler.dump_traceback_later(120, exit=True)
    faulthandler.cancel_dump_traceback_later()
