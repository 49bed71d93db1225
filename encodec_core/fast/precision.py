"""Float32 that is float32: torch may compute it in TF32 or bfloat16 behind its name, depending on global settings."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch

__all__ = ["Precision", "exact_float32"]

Precision = Literal["fp32", "tf32", "bf16"]


@contextmanager
def exact_float32(*, tf32_convolutions: bool = False) -> Iterator[None]:
    """Compute in true float32 within the block, whatever is set outside; the settings come back afterwards.

    cuDNN convolutions use TF32 by default, and `torch.set_float32_matmul_precision` loosens products on GPUs and CPUs.
    cuDNN may also sum in no fixed order, and with `benchmark` it takes whatever algorithm was fastest when it looked,
    so that bits would follow the machine's load: within the block it does neither. These settings belong to the
    process, so blocks share them: the first one in sets them, the last one out restores them, and a block with another
    `tf32_convolutions` waits until other threads have left theirs. `torch.autocast`, which belongs to the thread and
    would compute in half precision, is off within the block.

    Args:
        tf32_convolutions: allow TF32 in the convolutions of a GPU, and nowhere else.

    Raises:
        RuntimeError: the thread is in a block with another `tf32_convolutions`, for which it would wait for ever.
    """
    _shared.enter(tf32_convolutions=tf32_convolutions)
    try:
        with _without_autocast():
            yield
    finally:
        _shared.leave()


class _SharedSettings:
    """Counts who is in a block, and sets and restores what torch holds for the whole process.

    thread 1     enter ---------------- leave
    thread 2              enter ----------------- leave
    settings     set                              restored
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._blocks: Counter[int] = Counter()
        """Blocks that each thread is in, by its identity; those in none are left out."""
        self._tf32_convolutions = False
        self._restore = ExitStack()

    def enter(self, *, tf32_convolutions: bool) -> None:
        thread = threading.get_ident()
        with self._changed:
            while self._blocks and self._tf32_convolutions != tf32_convolutions:
                if thread in self._blocks:
                    raise RuntimeError(
                        f"exact_float32(tf32_convolutions={tf32_convolutions}) inside a block with "
                        f"{self._tf32_convolutions}; leave that block first, or ask for the same"
                    )
                self._changed.wait()
            if not self._blocks:
                self._restore.enter_context(_set_for_process(tf32_convolutions=tf32_convolutions))
                self._tf32_convolutions = tf32_convolutions
            self._blocks[thread] += 1

    def leave(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            self._blocks[thread] -= 1
            if self._blocks[thread] == 0:
                del self._blocks[thread]
            if not self._blocks:
                self._restore.close()
                self._changed.notify_all()


_shared = _SharedSettings()


@contextmanager
def _without_autocast() -> Iterator[None]:
    with ExitStack() as stack:
        for device_type in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


@contextmanager
def _set_for_process(*, tf32_convolutions: bool) -> Iterator[None]:
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        with _set_before_torch_2_9(tf32_convolutions=tf32_convolutions):
            yield
        return
    # Since torch 2.9 the older allow_tf32 raises where these differ from one another, so it is not touched.
    settings = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]
    settings += [backends.mkldnn.conv, backends.mkldnn.rnn, backends.mkldnn.matmul]
    before = [setting.fp32_precision for setting in settings]
    algorithms_before = backends.cudnn.benchmark, backends.cudnn.deterministic
    try:
        for setting in settings:
            setting.fp32_precision = "tf32" if tf32_convolutions and setting is backends.cudnn.conv else "ieee"
        backends.cudnn.benchmark, backends.cudnn.deterministic = False, True
        yield
    finally:
        backends.cudnn.benchmark, backends.cudnn.deterministic = algorithms_before
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


@contextmanager
def _set_before_torch_2_9(*, tf32_convolutions: bool) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32_convolutions):
            yield
    finally:
        matmul.allow_tf32 = before
