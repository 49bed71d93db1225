"""exact_float32 among threads: torch's settings belong to the process, so blocks share them."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from encodec_core.fast.precision import exact_float32

SECONDS = 10
"""After which a test gives up; all of them take milliseconds."""

matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
cudnn: Any = torch.backends.cudnn


class Block:
    """A thread that enters, waits to be told to leave, and leaves."""

    def __init__(self, *, tf32_convolutions: bool = False) -> None:
        self._tf32_convolutions = tf32_convolutions
        self.is_inside, self._may_leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with exact_float32(tf32_convolutions=self._tf32_convolutions):
            self.is_inside.set()
            self._may_leave.wait(SECONDS)

    def leave(self) -> None:
        self._may_leave.set()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture(autouse=True)
def loose_products() -> Iterator[None]:
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    yield
    matmul.fp32_precision = before


def test_settings_stay_until_the_last_thread_has_left() -> None:
    first = Block()
    assert first.is_inside.wait(SECONDS)
    second = Block()
    assert second.is_inside.wait(SECONDS)
    first.leave()
    assert matmul.fp32_precision == "ieee"
    second.leave()
    assert matmul.fp32_precision == "bf16"


def test_another_tf32_waits_for_its_turn() -> None:
    before = cudnn.conv.fp32_precision
    exact = Block()
    assert exact.is_inside.wait(SECONDS)
    loose = Block(tf32_convolutions=True)
    assert not loose.is_inside.wait(0.1)
    exact.leave()
    assert loose.is_inside.wait(SECONDS)
    assert (cudnn.conv.fp32_precision, matmul.fp32_precision) == ("tf32", "ieee")
    loose.leave()
    assert (cudnn.conv.fp32_precision, matmul.fp32_precision) == (before, "bf16")


def test_cudnn_may_not_choose_by_time_nor_sum_in_any_order() -> None:
    cudnn.benchmark = True
    try:
        with exact_float32():
            assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
        assert (cudnn.benchmark, cudnn.deterministic) == (True, False)
    finally:
        cudnn.benchmark = False


def test_autocast_of_the_caller_stays_outside() -> None:
    x = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        with exact_float32():
            assert torch.equal(torch.mm(x, x).double(), torch.mm(x, x.clone()).double())
            assert torch.mm(x, x).dtype == torch.float32
        assert torch.mm(x, x).dtype == torch.bfloat16


def test_another_tf32_inside_a_block_is_refused_instead_of_waiting_for_ever() -> None:
    with exact_float32(tf32_convolutions=True), exact_float32(tf32_convolutions=True):
        with pytest.raises(RuntimeError, match="leave that block first"), exact_float32():
            pass
        assert matmul.fp32_precision == "ieee"
    assert matmul.fp32_precision == "bf16"
