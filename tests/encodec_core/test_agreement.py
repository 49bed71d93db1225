"""compare_codes: what is a near tie, and what is a mistake."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from encodec_core import BatchEncoder, Codes, EncodecModel, agreement, compare_codes
from tests.encodec_core.models import CONFIGS, fitted_model, waveforms

BANDWIDTHS = {"causal_mono": 6.0, "causal_stereo": 6.0, "windows_stereo": 6.0, "windows_mono": 6.0, "musicgen": 1.6}


def encoded(name: str, num_samples: int = 60_000) -> tuple[EncodecModel, Tensor, Codes]:
    model, audio = fitted_model(name), waveforms(name, num_samples)[0]
    return model, audio, BatchEncoder(model, BANDWIDTHS[name], "cpu").encode([audio])[0]


def changed(codes: Codes, level: int, frame: int, code: int) -> Codes:
    tensor = codes.codes.to(torch.int32)
    tensor[level, frame] = code
    return Codes(codes=tensor.to(torch.uint16), scales=codes.scales, window_frames=codes.window_frames)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_encoders_own_codes_are_faithful(name: str) -> None:
    model, audio, codes = encoded(name)
    found = compare_codes(model, audio, codes, bandwidth_kbps=BANDWIDTHS[name])
    assert found.is_faithful
    assert found.num_frames == codes.num_frames
    assert found.num_codes == codes.codes.numel()
    assert found.num_equal >= 0.999 * found.num_codes


@pytest.mark.parametrize("name", ["causal_mono", "windows_stereo"])
@pytest.mark.parametrize(("level", "frame"), [(0, 0), (2, 50), (3, -1)])
def test_one_changed_code_is_one_wrong_frame(name: str, level: int, frame: int) -> None:
    model, audio, codes = encoded(name)
    other = (int(codes.codes[level, frame]) + 1) % model.config.codebook_size
    found = compare_codes(model, audio, changed(codes, level, frame, other), bandwidth_kbps=BANDWIDTHS[name])
    assert (found.num_wrong_frames, found.num_near_tie_frames) == (1, 0)
    assert found.num_equal == found.num_codes - 1
    assert found.largest_gap > agreement.NEAR_TIE
    assert not found.is_faithful


@pytest.mark.parametrize(("shift", "is_near_tie"), [(0.0, True), (1e-7, True), (1e-2, False)])
def test_a_code_as_near_as_the_references_is_a_near_tie(shift: float, is_near_tie: bool) -> None:
    """Entry 1023 is moved beside the chosen one; what the frame holds after that counts as its consequence."""
    model, audio, _ = encoded("causal_mono")
    model, level, frame = copy.deepcopy(model), 2, 40
    embed = model.quantizer.codebooks[level].embed
    embed[1023] = 1e3
    codes = BatchEncoder(model, 6.0, "cpu").encode([audio])[0]
    chosen = embed[int(codes.codes[level, frame])]
    embed[1023] = chosen + shift * chosen.norm() * torch.nn.functional.normalize(chosen, dim=0)
    flipped = changed(changed(codes, level, frame, 1023), level + 1, frame, 7)
    found = compare_codes(model, audio, flipped, bandwidth_kbps=6.0)
    assert found.num_wrong_frames == (0 if is_near_tie else 1)
    assert found.num_near_tie_frames == (1 if is_near_tie else 0)


def test_what_is_below_the_references_rounding_is_a_near_tie() -> None:
    """At n_q = 32 a codec of 16 channels leaves a thousandth of the latent over: float32 cannot tell entries apart."""
    model, audio = fitted_model("causal_mono"), waveforms("causal_mono", 333_333)[0]
    codes = BatchEncoder(model, 24.0, "cpu").encode([audio])[0]
    found = compare_codes(model, audio, codes, bandwidth_kbps=24.0)
    assert found.is_faithful
    assert found.num_equal > 0.99 * found.num_codes


def test_another_items_codes_are_wrong_nearly_everywhere() -> None:
    model, audio, _ = encoded("causal_mono", 60_000)
    _, _, codes = encoded("causal_mono", 59_999)
    found = compare_codes(model, audio, codes, bandwidth_kbps=6.0)
    assert found.mismatch is None
    assert found.num_wrong_frames > 0.9 * found.num_frames


def test_a_code_that_names_no_entry_is_wrong() -> None:
    model, audio, codes = encoded("causal_mono")
    found = compare_codes(model, audio, changed(codes, 0, 3, 60_000), bandwidth_kbps=6.0)
    assert found.num_wrong_frames == 1


def test_another_number_of_frames_or_codebooks_is_all_wrong_and_said() -> None:
    model, audio, codes = encoded("causal_mono")
    shorter = compare_codes(model, audio, Codes(codes=codes.codes[:, :-1]), bandwidth_kbps=6.0)
    assert shorter.mismatch == f"the codes have {codes.num_frames - 1} frames, the audio {codes.num_frames}"
    assert shorter.num_wrong_frames == shorter.num_frames == codes.num_frames
    fewer = compare_codes(model, audio, Codes(codes=codes.codes[:-1]), bandwidth_kbps=6.0)
    assert fewer.mismatch == "the codes have 7 codebooks, the bandwidth 8"
    assert not fewer.is_faithful


def test_windows_cut_elsewhere_are_all_wrong() -> None:
    model, audio, codes = encoded("windows_stereo")
    assert codes.window_frames is not None
    moved = Codes(codes=codes.codes, scales=codes.scales, window_frames=codes.window_frames.flip(0))
    found = compare_codes(model, audio, moved, bandwidth_kbps=6.0)
    assert found.mismatch is not None
    assert "windows" in found.mismatch


def test_a_wrong_scale_spoils_its_window_alone() -> None:
    model, audio, codes = encoded("windows_stereo")
    assert codes.scales is not None
    assert codes.window_frames is not None
    louder = Codes(codes=codes.codes, scales=codes.scales * torch.tensor([1, 1.01]), window_frames=codes.window_frames)
    found = compare_codes(model, audio, louder, bandwidth_kbps=6.0)
    assert found.num_wrong_frames == codes.window_frames[1]


@pytest.mark.parametrize("name", ["causal_mono", "musicgen"])
def test_long_items_are_compared_in_tiles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, audio, codes = encoded(name)
    monkeypatch.setattr(agreement, "MAX_WHOLE_SECONDS", 1)
    assert compare_codes(model, audio, codes, bandwidth_kbps=BANDWIDTHS[name]).is_faithful
    wrong = compare_codes(model, audio, changed(codes, 0, 5, 0), bandwidth_kbps=BANDWIDTHS[name])
    assert wrong.num_wrong_frames == int(codes.codes[0, 5] != 0)


def test_refusals() -> None:
    model, audio, codes = encoded("causal_mono")
    with pytest.raises(ValueError, match=r"choose one of 1\.5"):
        compare_codes(model, audio, codes, bandwidth_kbps=5.0)
    with pytest.raises(ValueError, match=r"expected torch\.float32 \[1, samples > 0\]"):
        compare_codes(model, audio.double(), codes, bandwidth_kbps=6.0)


def test_blocks_have_the_bits_of_the_whole_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, num_frames = fitted_model("causal_mono"), 3 * agreement.BLOCK_FRAMES + 5
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(model.config.hidden_size, num_frames, generator=generator)
    whole = model.quantizer.quantize(latents[None], n_q=8)[0].t()
    sizes = []
    quantize = model.quantizer.quantize

    def counted(block: Tensor, *, n_q: int) -> Tensor:
        sizes.append(block.shape[-1])
        return quantize(block, n_q=n_q)

    monkeypatch.setattr(model.quantizer, "quantize", counted)
    assert torch.equal(agreement._quantize(model, latents, n_q=8), whole)
    assert sizes == [agreement.BLOCK_FRAMES, agreement.BLOCK_FRAMES, agreement.BLOCK_FRAMES + 5]


def test_the_reference_is_computed_in_true_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model, audio, codes = encoded("causal_mono")
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    seen = []
    whole = agreement._quantize

    def seeing(*arguments: Any, **keywords: Any) -> Tensor:
        seen.append(matmul.fp32_precision)
        return whole(*arguments, **keywords)

    monkeypatch.setattr(agreement, "_quantize", seeing)
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        assert compare_codes(model, audio, codes, bandwidth_kbps=6.0).is_faithful
        assert seen == ["ieee"]
        assert matmul.fp32_precision == "bf16"
    finally:
        matmul.fp32_precision = before
