"""The language model: Meta's probabilities from the same weights, state that stays small, and files."""

import hashlib
import json
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from encodec_core import EncodecConfig
from encodec_core.entropy import LanguageModel, LanguageModelConfig, previous_codes
from encodec_core.entropy.lm import language_model_sha256
from tests.encodec_core.language_models import SMALL, in_meta, make_language_model, random_codes, small_language_model


@cache
def meta_twin() -> Any:
    return in_meta(small_language_model())


def previous(num_codebooks: int, num_frames: int, *, batch_size: int = 1) -> Tensor:
    return previous_codes(random_codes(num_codebooks, num_frames, entries=SMALL.codebook_size, batch_size=batch_size))


@pytest.mark.parametrize("num_codebooks", [1, 3, 4])
@pytest.mark.parametrize("num_frames", [1, 5, 6, 7, 20])
def test_probabilities_of_whole_sequences_are_the_references(num_codebooks: int, num_frames: int) -> None:
    indices = previous(num_codebooks, num_frames, batch_size=2)
    ours, _ = small_language_model().probabilities(indices)
    theirs, _, _ = meta_twin()(indices)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("num_codebooks", [1, 4])
@pytest.mark.parametrize("step", [1, 3])
def test_probabilities_step_by_step_are_the_references(num_codebooks: int, step: int) -> None:
    state, their_state, offset = None, None, 0
    for frames in torch.split(previous(num_codebooks, 21), step, dim=-1):
        ours, state = small_language_model().probabilities(frames, state)
        theirs, their_state, offset = meta_twin()(frames, their_state, offset)
        assert torch.equal(ours, theirs)


def test_the_references_checkpoints_load_here_and_ours_there(tmp_path: Path) -> None:
    config = replace(
        SMALL, n_q=16, past_context=int(3.5 * 150)
    )  # 16 codebooks: the 48 kHz codec, 150 frames per second
    theirs = in_meta(make_language_model(config, seed=3))
    torch.save(theirs.state_dict(), tmp_path / "lm.th")
    ours = LanguageModel.from_pretrained(tmp_path / "lm.th")
    assert ours.config == config
    indices = previous(16, 9)
    assert torch.equal(ours.probabilities(indices)[0], theirs(indices)[0])
    theirs.load_state_dict(make_language_model(config, seed=4).state_dict())
    assert not torch.equal(ours.probabilities(indices)[0], theirs(indices)[0])


def test_steps_give_what_the_whole_sequence_gives() -> None:
    double = make_language_model(SMALL).double()
    whole, _ = double.probabilities(previous(4, 30))
    state, pieces = None, []
    for frames in torch.split(previous(4, 30), [1, 2, 10, 17], dim=-1):
        piece, state = double.probabilities(frames, state)
        pieces.append(piece)
    # Position embeddings are float32 for both, and equal; the rest is float64.
    torch.testing.assert_close(torch.cat(pieces, -1), whole, rtol=0, atol=1e-12)


def test_the_state_does_not_grow_beyond_the_context() -> None:
    state = None
    for frames in torch.split(previous(2, 40), 1, dim=-1):
        _, state = small_language_model()(frames, state)
    assert state is not None
    assert state.num_steps == 40
    assert [past.shape for past in state.layer_inputs] == [(1, SMALL.past_context, SMALL.dim)] * SMALL.num_layers


def test_a_frame_is_predicted_from_earlier_ones_within_reach() -> None:
    model, codes = small_language_model(), random_codes(4, 30, entries=SMALL.codebook_size)
    before, _ = model(previous_codes(codes))
    codes[..., 10] = (codes[..., 10] + 1) % SMALL.codebook_size
    after, _ = model(previous_codes(codes))
    changed = (before != after).any(1).any(1)[0].nonzero().flatten().tolist()
    # Layer 1 sees `past_context` frames back, layer 2 as many again.
    assert changed == list(range(11, 11 + 2 * SMALL.past_context + 1))


@pytest.mark.parametrize("num_codebooks", [0, 5])
def test_another_number_of_codebooks_is_refused(num_codebooks: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 4"):
        small_language_model()(torch.zeros(1, num_codebooks, 1, dtype=torch.int64))


def test_the_papers_shape_follows_from_the_codec() -> None:
    mono = LanguageModelConfig.for_codec(EncodecConfig.encodec_24khz())
    stereo = LanguageModelConfig.for_codec(EncodecConfig.encodec_48khz())
    assert (mono.n_q, mono.past_context, stereo.n_q, stereo.past_context) == (32, 262, 16, 525)


@pytest.mark.parametrize("wrong", [{"n_q": 0}, {"dim": 15}, {"dim": 18}, {"past_context": 0}, {"num_layers": 1.0}])
def test_shapes_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} = "):
        LanguageModelConfig(**(asdict(SMALL) | wrong))


def test_save_and_load(tmp_path: Path) -> None:
    model = make_language_model(replace(SMALL, codec_weights_sha256="ab" * 32))
    model.save_pretrained(tmp_path)
    loaded = LanguageModel.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(previous(4, 5))[0], model(previous(4, 5))[0])
    assert not loaded.training


def test_a_model_knows_the_file_that_it_was_read_from(tmp_path: Path) -> None:
    assert small_language_model().provenance is None
    small_language_model().save_pretrained(tmp_path)
    torch.save(small_language_model().state_dict(), tmp_path / "lm.th")
    for source, name in ((tmp_path, "model.safetensors"), (tmp_path / "lm.th", "lm.th")):
        provenance = LanguageModel.from_pretrained(source).provenance
        assert provenance is not None
        assert provenance.files == ((name, hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()),)


@pytest.mark.parametrize(
    "changes", [{"num_heads": 4}, {"past_context": 7}, {"codec_weights_sha256": "ab" * 32}], ids=str
)
def test_the_hash_of_a_model_covers_all_that_decides_probabilities(changes: dict[str, Any]) -> None:
    other = make_language_model(replace(SMALL, **changes))
    other.load_state_dict(small_language_model().state_dict())
    as_other = language_model_sha256(other) == language_model_sha256(small_language_model())
    assert as_other == torch.equal(other(previous(4, 20))[0], small_language_model()(previous(4, 20))[0])
    with torch.no_grad():
        other.linears[0].bias.add_(1e-3)  # type: ignore[operator]
    assert language_model_sha256(other) != language_model_sha256(small_language_model())


def test_half_precision_files_are_half_the_size_and_load_as_float32(tmp_path: Path) -> None:
    model = make_language_model(SMALL)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "half", dtype=torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    for name, tensor in LanguageModel.from_pretrained(tmp_path / "half").state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].half().float())


def test_a_language_model_beside_a_codec_is_found(tmp_path: Path) -> None:
    small_language_model().save_pretrained(tmp_path / "lm")
    assert LanguageModel.from_pretrained(tmp_path, subfolder="lm").config == SMALL


def test_what_is_no_language_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no language model"):
        LanguageModel.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no language model .*lm\.th"):
        LanguageModel.from_pretrained(tmp_path / "lm.th")
    torch.save({"encoder.weight": torch.zeros(1)}, tmp_path / "codec.th")
    with pytest.raises(ValueError, match="is not a language model"):
        LanguageModel.from_pretrained(tmp_path / "codec.th")
    EncodecConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type"):
        LanguageModel.from_pretrained(tmp_path)


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    small_language_model().save_pretrained(tmp_path)
    keys = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(keys | {"codebook_size": 64}))
    with pytest.raises(ValueError, match=r"emb\.0\.weight .* is \(33, 16\), its config makes it \(65, 16\)"):
        LanguageModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(keys | {"num_layers": 3}))
    with pytest.raises(ValueError, match=r"transformer\.layers\.2.* is missing"):
        LanguageModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(keys | {"layers": 3}))
    with pytest.raises(ValueError, match=r"expected .*n_q"):
        LanguageModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(keys))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        LanguageModel.from_pretrained(tmp_path)
