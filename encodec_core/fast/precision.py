"""Float32 that is float32: torch may compute it in TF32 or bfloat16 behind its name, depending on global settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

__all__ = ["Precision", "exact_float32"]

Precision = Literal["fp32", "tf32", "bf16"]


@contextmanager
def exact_float32(*, tf32_convolutions: bool = False) -> Iterator[None]:
    """Compute in true float32 within the block, whatever the process has set; its settings come back afterwards.

    cuDNN convolutions use TF32 by default, and `torch.set_float32_matmul_precision` loosens products on GPUs and CPUs.

    Args:
        tf32_convolutions: allow TF32 in the convolutions of a GPU, and nowhere else.
    """
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        with _exact_float32_before_torch_2_9(tf32_convolutions=tf32_convolutions):
            yield
        return
    # Since torch 2.9 the older allow_tf32 raises where these differ from one another, so it is not touched.
    settings = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]
    settings += [backends.mkldnn.conv, backends.mkldnn.rnn, backends.mkldnn.matmul]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "tf32" if tf32_convolutions and setting is backends.cudnn.conv else "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


@contextmanager
def _exact_float32_before_torch_2_9(*, tf32_convolutions: bool) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, False
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32_convolutions):
            yield
    finally:
        matmul.allow_tf32 = before
