import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.conftest import Quickstart
from tests.tokenizer_jobs.object_stores import serve_objects
from tokenizer_jobs.storage import Storage

__all__ = ["NOBODY", "PYTHON_PATH", "REPOSITORY", "Quickstart"]

REPOSITORY = Path(__file__).parents[2]

PYTHON_PATH = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
"""For processes that run elsewhere."""

NOBODY = 65534


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user whom permissions bind; where the tests run as root, they are that user meanwhile."""
    # Not tmp_path: pytest's own folders let nobody but their owner through.
    folder = Path(tempfile.mkdtemp(prefix="unprivileged-"))
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The URL of a store that speaks S3; its content is everybody's, so names in it are drawn."""
    yield from serve_objects()


@pytest.fixture
def offline_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`datasets` with an empty cache, without network and without bars."""
    import datasets  # takes most of a second, and few tests need it

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """An empty output: a local folder, and one behind fsspec."""
    if request.param == "local":
        yield Storage.open(tmp_path / "out")
        return
    folder = f"/{uuid.uuid4().hex}"
    yield Storage.open(f"memory://{folder}")
    memory = fsspec.filesystem("memory")
    if memory.exists(folder):
        memory.rm(folder, recursive=True)


@pytest.fixture(scope="session")
def codec_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with reduced codecs by name: causal_mono and windows_stereo."""
    from tests.encodec_core.models import fitted_model  # imports torch and transformers, which most tests do without

    folder = tmp_path_factory.mktemp("codecs")
    for name in ("causal_mono", "windows_stereo"):
        fitted_model(name).save_pretrained(folder / name)
    return folder
