"""The Triton kernel without a GPU: run in Triton's interpreter, and compiled for GPUs that are not there.

Each runs in a process of its own: the interpreter is chosen before triton is imported.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is missing: pip install triton"
)

NEAREST = """
import torch
from encodec_core.fast.gpu import nearest
generator = torch.Generator().manual_seed(0)
entries = torch.randn(256, 64, generator=generator)
entries[110] = entries[200] = entries[100]
for num_frames in (1, 63, 64, 65, 150):
    frames = torch.randn(num_frames, 64, generator=generator)
    frames[0] = entries[100]
    residual, codes = frames.clone(), torch.full((num_frames,), -1, dtype=torch.int16)
    nearest.quantize_level(residual, entries, entries.pow(2).sum(1), codes=codes)
    expected = torch.cdist(frames.double(), entries.double()).argmin(1)
    assert torch.equal(codes.long(), expected), (codes, expected)
    assert codes[0] == 100, "equal distances go to the lower code"
    assert torch.equal(residual, frames - entries[expected])
"""

QUANTIZER = """
import torch
from encodec_core.fast.gpu import nearest
from encodec_core.fast.gpu.quantizer import DeviceQuantizer
from encodec_core.quantization.codebook import Codebook
generator, codebooks = torch.Generator().manual_seed(0), []
for level in range(32):
    codebook = Codebook(128, 32)
    codebook.embed.copy_(torch.randn(128, 32, generator=generator) * 0.9**level)
    codebooks.append(codebook)
for n_q, num_frames in ((1, 200), (2, 129), (8, 64), (32, 77)):
    quantizer = DeviceQuantizer(codebooks[:n_q], device=torch.device("cpu"), dtype=torch.float32)
    frames = torch.randn(num_frames, 64, generator=generator)[:, ::2]  # not contiguous, as latents are not
    before, expected = frames.clone(), quantizer.encode(frames)
    quantizer._kernel = nearest
    assert torch.equal(quantizer.encode(frames), expected)
    assert torch.equal(frames, before), "what is quantized stays as it was"
"""

COMPILED = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from encodec_core.fast.gpu import nearest
sizes = {"num_channels": 128, "block_frames": nearest.BLOCK_FRAMES}
sizes |= {"block_entries": nearest.BLOCK_ENTRIES, "block_channels": nearest.BLOCK_CHANNELS}
types = {"residual": "*fp32", "entries": "*fp32", "squares": "*fp32", "codes": "*i16", "num_frames": "i32"}
for capability, num_entries in ((75, 1024), (90, 2048)):
    constants = sizes | {"num_entries": num_entries}
    source = ASTSource(
        fn=nearest._quantize_level, signature=types | dict.fromkeys(constants, "constexpr"), constexprs=constants
    )
    compiled = compile(source, target=GPUTarget("cuda", capability, 32))
    assert "fma.rn.f32" in compiled.asm["ptx"]
    assert "mma" not in compiled.asm["ptx"] and "tf32" not in compiled.asm["ptx"], "true float32"
    assert compiled.metadata.shared <= 48 * 1024, "more than every GPU gives a block"
"""


def run(script: str, **environment: str) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=120)


def test_it_finds_the_nearest_entries() -> None:
    run(NEAREST, TRITON_INTERPRET="1")


def test_codes_are_those_of_products_and_a_search() -> None:
    run(QUANTIZER, TRITON_INTERPRET="1")


def test_it_compiles_to_float32_for_old_gpus_and_new_ones(tmp_path: Path) -> None:
    """Turing and Hopper."""
    run(COMPILED, TRITON_CACHE_DIR=str(tmp_path))
