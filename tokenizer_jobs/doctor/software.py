"""Python, torch and the packages that a job imports."""

import importlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from tokenizer_jobs.doctor.findings import Finding
from tokenizer_jobs.wording import bytes_text

__all__ = [
    "CPU_TORCH",
    "check_kernels",
    "check_module",
    "check_modules",
    "check_python",
    "check_torch",
    "check_torchaudio",
    "imported",
]

OLDEST_PYTHON = (3, 11)
CPU_TORCH = "pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
CUDA_TORCH = "pip uninstall -y torch && pip install torch==2.13.0"
"""In two steps: to pip a CPU build of that version is that version, and stays."""


def imported(name: str) -> ModuleType | str:
    """The module, or why it cannot be had; a broken native library raises OSError or RuntimeError."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        return "not installed"
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f"cannot be imported: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".strip()


def check_python() -> Iterator[Finding]:
    """Look at the interpreter."""
    found = sys.version_info[:2]
    yield Finding(
        subject="Python",
        state="ok" if found >= OLDEST_PYTHON else "missing",
        detail=f"{sys.version.split()[0]} at {sys.executable}",
        remedy=None if found >= OLDEST_PYTHON else "install Python 3.11 or newer, then make a new virtual environment",
        is_needed=True,
    )


def check_torch() -> Iterator[Finding]:
    """Look at torch, its build and the GPUs that it sees."""
    torch = imported("torch")
    if isinstance(torch, str):
        yield Finding(subject="torch", state="missing", detail=torch, remedy=CPU_TORCH, is_needed=True)
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Finding(
        subject="torch",
        state="ok",
        detail=f"{torch.__version__} ({build}), {torch.get_num_threads()} threads",
        is_needed=True,
    )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            yield _check_gpu(torch, index)
    elif _has_nvidia_device():
        yield Finding(
            subject="GPU",
            state="missing",
            detail=f"this machine has an NVIDIA GPU, but torch ({build}) cannot use it",
            remedy=CUDA_TORCH if torch.version.cuda is None else "nvidia-smi  (the driver must work)",
        )
    else:
        yield Finding(subject="GPU", state="note", detail="none; encoders run on CPU cores")


def _check_gpu(torch: ModuleType, index: int) -> Finding:
    """Compute on a GPU what an encoder does: one that is seen may be of an age that the build has no kernels for."""
    subject, name = f"GPU {index}", "it"
    try:
        facts = torch.cuda.get_device_properties(index)
        name = facts.name
        free, _ = torch.cuda.mem_get_info(index)
        device = torch.device("cuda", index)
        x = torch.nn.functional.conv1d(torch.ones(1, 1, 10, device=device), torch.ones(1, 1, 3, device=device))
        hidden, _ = torch.nn.LSTM(8, 8, device=device)(x)
        (hidden[0] @ hidden[0].t()).sum().item()
    # What torch raises where it cannot even begin with a device is no RuntimeError.
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        detail = f"{name} is seen and cannot compute: {(str(error).splitlines() or [type(error).__name__])[0]}"
        remedy = "nvidia-smi  (who holds it?), or a torch build for this GPU; runtime.device: cpu does without"
        return Finding(subject=subject, state="missing", detail=detail, remedy=remedy, is_needed=True)
    detail = f"{name}, {bytes_text(free)} of {bytes_text(facts.total_memory)} free; computes"
    if importlib.util.find_spec("triton") is None:
        detail += "; without Triton, so that codes are searched for more slowly"
    return Finding(subject=subject, state="ok", detail=detail)


def check_kernels() -> Iterator[Finding]:
    """Look for the encoder's kernels for CPUs: without them torch's operators do the work, more slowly."""
    try:
        from encodec_core.fast.native import why_absent
    except (ImportError, OSError):  # no torch: told above
        return
    reason = why_absent()
    if reason is None:
        yield Finding(subject="CPU kernels", state="ok", detail="AVX-512; encoders on CPU cores use them")
        return
    detail, _, remedy = reason.partition(": ")
    yield Finding(
        subject="CPU kernels",
        state="note",
        detail=f"none, {detail}; encoders on CPU cores use torch's operators, which take longer",
        remedy=remedy or None,
    )


def check_modules() -> Iterator[Finding]:
    """Look at the packages that hold and store what is made."""
    for name in ("numpy", "pyarrow", "fsspec", "datasets", "safetensors"):
        yield check_module(name)


def check_module(name: str) -> Finding:
    """Look at one package that every job needs."""
    module = imported(name)
    if isinstance(module, str):
        return Finding(subject=name, state="missing", detail=module, remedy=f"pip install {name}", is_needed=True)
    return Finding(subject=name, state="ok", detail=str(module.__version__), is_needed=True)


def check_torchaudio() -> Iterator[Finding]:
    """Look for the torchaudio that was built for another torch: it breaks whoever merely asks whether it is there."""
    if importlib.util.find_spec("torchaudio") is None:
        return
    torchaudio = imported("torchaudio")
    if isinstance(torchaudio, str):
        yield Finding(
            subject="torchaudio",
            state="missing",
            detail=f"installed and broken ({torchaudio}); not used here, but transformers and datasets trip over it",
            remedy="pip uninstall -y torchaudio",
        )
    else:
        yield Finding(subject="torchaudio", state="ok", detail=f"{torchaudio.__version__} (not used here)")


def _has_nvidia_device() -> bool:
    return Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
