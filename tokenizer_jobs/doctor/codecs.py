"""Codecs: the one inside the package, those in the cache of the hub, and whether others can be downloaded."""

from collections.abc import Iterator
from pathlib import Path

from tokenizer_jobs.doctor.findings import Finding
from tokenizer_jobs.doctor.software import imported
from tokenizer_jobs.errors import ConfigError

__all__ = ["check_demo_codec", "check_model_cache"]

WEIGHTS = ("*.safetensors", "*.bin", "*.th")


def check_demo_codec() -> Iterator[Finding]:
    """Load the codec inside the package."""
    try:
        from tokenizer_jobs.config import CodecRecipe
        from tokenizer_jobs.encoding import load_codec

        codec = load_codec(CodecRecipe(model="demo"), device="cpu").describe()
    except (ImportError, OSError, ConfigError) as error:
        yield Finding(
            subject="demo codec",
            state="missing",
            detail=f"cannot be loaded: {error}",
            remedy="pip install --force-reinstall --no-deps .  (in the checkout; its weights are files of the package)",
            is_needed=True,
        )
    else:
        yield Finding(
            subject="demo codec", state="ok", detail=f"loads; weights {codec.weights_sha256[:16]}…", is_needed=True
        )


def check_model_cache() -> Iterator[Finding]:
    """Look at what the hub's cache has, whether it is whole, and whether the hub may be asked."""
    constants = imported("huggingface_hub.constants")
    if isinstance(constants, str):
        yield Finding(
            subject="huggingface_hub", state="missing", detail=constants, remedy="pip install huggingface_hub"
        )
        return
    cache = Path(constants.HF_HUB_CACHE)
    folders = sorted(cache.glob("models--*encodec*"))
    whole = [_name(folder) for folder in folders if _has_weights(folder)]
    offline = bool(constants.HF_HUB_OFFLINE)
    others = (
        "HF_HUB_OFFLINE is set, so only these can be loaded by name"
        if offline
        else f"others are downloaded from {constants.ENDPOINT}"
    )
    yield Finding(
        subject="model cache",
        state="note" if offline or not whole else "ok",
        detail=f"{cache}: {', '.join(whole) or 'no codec yet'}; {others}",
        remedy="unset HF_HUB_OFFLINE  (or give recipe.codec.model a local folder)" if offline else None,
    )
    for folder in folders:
        if not _has_weights(folder):
            yield _partial(folder, offline=offline)


def _partial(folder: Path, *, offline: bool) -> Finding:
    again = f"{'unset HF_HUB_OFFLINE and ' if offline else ''}run the job: it downloads the rest"
    return Finding(
        subject="model cache",
        state="missing" if offline else "note",
        detail=f"{_name(folder)} is there without weights: its download was broken off",
        remedy=f"{again}; or rm -r {folder}",
    )


def _name(folder: Path) -> str:
    return folder.name.removeprefix("models--").replace("--", "/")


def _has_weights(folder: Path) -> bool:
    """Whether a snapshot of the hub's cache holds weights; its files are links, which may lead nowhere."""
    return any(path.exists() for pattern in WEIGHTS for path in folder.glob(f"snapshots/*/{pattern}"))
