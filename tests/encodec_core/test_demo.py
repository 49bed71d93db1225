"""The codec inside the package."""

from pathlib import Path

import pytest
import torch

import encodec_core
from encodec_core import BatchEncoder, EncodecModel
from encodec_core.demo.make import write_demo

FOLDER = Path(encodec_core.__file__).parent / "demo"


def test_it_is_small() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 8_000_000


@pytest.mark.parametrize(("bandwidth", "n_q"), [(1.5, 2), (3.0, 4), (6.0, 8)])
def test_it_encodes_and_decodes_at_every_bandwidth(bandwidth: float, n_q: int) -> None:
    model = EncodecModel.from_pretrained("demo")
    encoder = BatchEncoder(model, bandwidth, "cpu")
    codes = encoder.encode([torch.zeros(1, 1000)])
    assert codes[0].codes.shape == (n_q, 4)
    assert encoder.decode(codes)[0].shape == (1, 1280)


def test_it_is_written_as_it_is_read(tmp_path: Path) -> None:
    model = EncodecModel.from_pretrained("demo")
    write_demo(model, tmp_path)
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes(), name
