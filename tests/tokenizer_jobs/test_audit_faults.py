"""Every fault that dumps are known for, put into a dump on purpose, is found, counted and named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
import torch

from encodec_core import EncodecModel
from tests.encodec_core.models import in_transformers
from tests.tokenizer_jobs.audits import (
    RATE,
    Codes,
    Corpus,
    audit_arrays,
    encode,
    fault_of,
    make_corpus,
    no_fault,
    only_fault,
    voice,
)
from tokenizer_jobs.auditing import AuditResult, Kind, audit
from tokenizer_jobs.config import CodecRecipe
from tokenizer_jobs.encoding import load_codec
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.importing import DumpSaid
from tokenizer_jobs.training import DelayPattern

Audit = Callable[..., AuditResult]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("speech") / "audio", number=12)


@pytest.fixture(scope="module")
def stereo(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("stereo") / "audio", number=6, stereo=True)


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("music") / "audio", number=6, rate=44_100)


@pytest.fixture
def check(speech: Corpus, tmp_path: Path) -> Audit:
    def run(codes: Codes, **options: Any) -> AuditResult:
        return audit_arrays(speech, tmp_path / "dump", codes, **options)

    return run


class TestWhichItem:
    def test_codes_one_place_off_in_the_list(self, speech: Corpus, check: Audit) -> None:
        ids = speech.ids
        result = check({name: speech.codes[ids[place - 1]] for place, name in enumerate(ids)})
        found = fault_of(result, Kind.SHIFTED)
        assert "-1 place: 11, +11 places: 1" in found.text  # the first has the codes of the last
        assert found.count == 12
        assert "of all 12 the lengths of 12 fit that" in found.text

    def test_a_failed_item_moves_all_after_it(self, speech: Corpus, check: Audit) -> None:
        ids = speech.ids
        codes = [speech.codes[name] for name in ids if name != "c07"]
        result = check(dict(zip(ids, codes, strict=False)))
        found = fault_of(result, Kind.SHIFTED)
        assert (found.count, found.examples[0]) == (4, "c07")
        assert "+1 place: 4" in found.text
        assert "all sampled ones from 'c07' on, and none before" in found.text
        assert fault_of(result, Kind.MISSING_CODES).examples == ("c11.wav",)

    def test_two_that_changed_places(self, speech: Corpus, check: Audit) -> None:
        found = only_fault(check({**speech.codes, "c04": speech.codes["c05"], "c05": speech.codes["c04"]}))
        assert (found.kind, found.count, found.examples) == (Kind.SWAPPED, 2, ("c04", "c05"))

    def test_codes_under_two_ids_while_the_audio_differs(self, speech: Corpus, check: Audit) -> None:
        result = check({**speech.codes, "c09": speech.codes["c08"]})
        found = fault_of(result, Kind.DOUBLED_CODES)
        assert (found.count, found.of, found.examples) == (1, 12, ("c09 = c08",))
        assert "the codes of another item, whose audio differs" in found.text

    def test_the_same_audio_under_two_ids_is_no_fault(self, tmp_path: Path) -> None:
        corpus = make_corpus(tmp_path / "audio", number=3)
        soundfile.write(corpus.folder / "copy.wav", corpus.waveforms["c01"], RATE, subtype="FLOAT")
        result = no_fault(audit_arrays(corpus, tmp_path / "dump", {**corpus.codes, "copy": corpus.codes["c01"]}))
        assert [found.kind for found in result.findings] == [Kind.SAME_AUDIO]

    def test_an_item_that_is_there_twice(self, speech: Corpus, tmp_path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        ids = [*speech.ids, "c00", "c01"]
        pq.write_table(pa.table({"id": ids, "codes": [speech.codes[i].tolist() for i in ids]}), tmp_path / "d.parquet")
        found = only_fault(audit(str(tmp_path / "d.parquet"), audio=str(speech.folder), codec="demo"))
        assert (found.kind, found.count, found.examples) == (Kind.DOUBLED_ID, 2, ("c00", "c01"))

    def test_audio_without_codes_and_codes_without_audio(self, speech: Corpus, check: Audit) -> None:
        codes = {name: speech.codes[name] for name in speech.ids[3:]}
        result = check({**codes, "zz": speech.codes["c01"][:, :-3]})
        assert fault_of(result, Kind.MISSING_CODES).examples == ("c00.wav", "c01.wav", "c02.wav")
        assert "3 recordings of 12 have no codes" in fault_of(result, Kind.MISSING_CODES).text
        assert fault_of(result, Kind.MISSING_AUDIO).examples == ("zz",)

    def test_same_named_files_of_which_one_overwrote_the_other(self, tmp_path: Path) -> None:
        corpus = make_corpus(tmp_path / "audio", number=3)
        soundfile.write(corpus.folder / "c01.flac", voice(30_000, seed=99), RATE)
        found = fault_of(audit_arrays(corpus, tmp_path / "dump", corpus.codes), Kind.MISSING_CODES)
        assert "1 of them share their name" in found.text

    def test_no_id_in_common_is_refused(self, speech: Corpus, check: Audit) -> None:
        with pytest.raises(ConfigError, match=r"'x00'.*'c00\.wav'.*--id field:NAME"):
            check({f"x{name[1:]}": codes for name, codes in speech.codes.items()})

    def test_a_damaged_file(self, speech: Corpus, tmp_path: Path) -> None:
        audit_arrays(speech, tmp_path / "dump", speech.codes)
        (tmp_path / "dump" / "c03.npy").write_bytes(b"noise")
        found = only_fault(audit(str(tmp_path / "dump"), audio=str(speech.folder), codec="demo"))
        assert (found.kind, found.examples) == (Kind.UNREADABLE, ("c03",))


class TestLength:
    def test_cut_at_a_common_length(self, speech: Corpus, check: Audit) -> None:
        found = only_fault(check({name: codes[:, :90] for name, codes in speech.codes.items()}))
        assert found.kind is Kind.CUT_SHORT
        assert "90 frames, which is 1.20 s" in found.text
        assert "agree with their audio over the frames that both have" in found.text
        assert found.count == sum(codes.shape[1] > 90 for codes in speech.codes.values())

    def test_cut_to_the_shortest_of_a_batch(self, speech: Corpus, check: Audit) -> None:
        codes, ids = dict(speech.codes), speech.ids
        for start in range(0, 12, 4):
            batch = ids[start : start + 4]
            shortest = min(codes[name].shape[1] for name in batch)
            codes |= {name: codes[name][:, :shortest] for name in batch}
        found = only_fault(check(codes))
        assert (found.kind, found.count) == (Kind.CUT_SHORT, 9)
        assert "9 of them exactly as many as the audio of an item near them, such as the shortest" in found.text

    def test_padding_of_a_batch_that_was_kept(self, speech: Corpus, check: Audit) -> None:
        longest = max(len(waveform) for waveform in speech.waveforms.values())
        padded = {n: encode(np.pad(w, (0, longest - len(w)))) for n, w in speech.waveforms.items()}
        found = fault_of(check(padded), Kind.TOO_LONG)
        assert found.count == 11
        assert f"{padded['c00'].shape[1]} frames, which is" in found.text

    def test_the_last_part_filled_frame_dropped(self, speech: Corpus, check: Audit) -> None:
        floored = {n: codes[:, : len(speech.waveforms[n]) // 320] for n, codes in speech.codes.items()}
        found = only_fault(check(floored))
        assert found.kind is Kind.LAST_FRAME_DROPPED
        assert found.count == sum(floored[n].shape != speech.codes[n].shape for n in speech.ids)

    def test_the_last_frame_of_items_padded_on_the_right(self, speech: Corpus, check: Audit) -> None:
        theirs = in_transformers(EncodecModel.from_pretrained("demo").float())
        found = only_fault(check(_batched_by_transformers(theirs, speech)))
        assert found.kind is Kind.LAST_FRAME_DIFFERS
        assert found.count >= 9

    def test_a_second_run_that_appends(self, speech: Corpus, check: Audit) -> None:
        found = only_fault(check({name: np.tile(codes, (1, 2)) for name, codes in speech.codes.items()}))
        assert (found.kind, found.count) == (Kind.REPEATED, 12)

    def test_a_buffer_that_still_held_frames_of_another(self, speech: Corpus, check: Audit) -> None:
        late = np.concatenate([speech.codes["c02"][:, :75], speech.codes["c03"]], axis=1)
        result = check({**speech.codes, "c03": late})
        assert fault_of(result, Kind.LATE).examples == ("c03",)
        assert "75 frames" in fault_of(result, Kind.LATE).text


class TestSeams:
    @pytest.mark.parametrize("seconds", [0.5, 1.0])
    def test_an_encoder_begun_afresh_tells_its_period(self, seconds: float, speech: Corpus, check: Audit) -> None:
        step = round(seconds * RATE)
        found = only_fault(
            check(
                {
                    name: np.concatenate([encode(w[start : start + step]) for start in range(0, len(w), step)], axis=1)
                    for name, w in speech.waveforms.items()
                }
            )
        )
        assert found.kind is Kind.SEAMS
        assert f"every {-(-step // 320)} frames = {seconds:.2f} s" in found.text
        assert found.count >= 10


CHANNEL_WAYS: dict[Kind, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    Kind.LEFT_CHANNEL: lambda x: x[:, 0],
    Kind.RIGHT_CHANNEL: lambda x: x[:, 1],
    Kind.SUMMED: lambda x: x.sum(1),
    Kind.INTERLEAVED: lambda x: x.reshape(-1),
    Kind.RESHAPED_CHANNELS: lambda x: x.reshape(2, -1).mean(0),
}


class TestChannelsAndRates:
    @pytest.mark.parametrize("kind", CHANNEL_WAYS, ids=str)
    def test_stereo(self, kind: Kind, stereo: Corpus, tmp_path: Path) -> None:
        codes = {name: encode(CHANNEL_WAYS[kind](w)) for name, w in stereo.waveforms.items()}
        found = only_fault(audit_arrays(stereo, tmp_path / "dump", codes))
        assert (found.kind, found.count) == (kind, 6)

    def test_the_mix_is_no_fault(self, stereo: Corpus, tmp_path: Path) -> None:
        assert no_fault(audit_arrays(stereo, tmp_path / "dump", stereo.codes)).agreeing == 6

    def test_samples_that_were_not_resampled(self, music: Corpus, tmp_path: Path) -> None:
        codes = {name: encode(w) for name, w in music.waveforms.items()}
        found = only_fault(audit_arrays(music, tmp_path / "dump", codes))
        assert (found.kind, found.count) == (Kind.NOT_RESAMPLED, 6)
        assert "44100 Hz fed as 24000 Hz" in found.text
        assert "the lengths of 6 fit that" in found.text

    def test_a_wrong_rate(self, music: Corpus, tmp_path: Path) -> None:
        codes = {name: encode(soxr.resample(w, 48_000, RATE)) for name, w in music.waveforms.items()}
        found = only_fault(audit_arrays(music, tmp_path / "dump", codes))
        assert found.kind is Kind.WRONG_RATE
        assert "44100 Hz taken for 48000 Hz" in found.text

    def test_another_resampler_is_no_fault(self, music: Corpus, tmp_path: Path) -> None:
        codes = {name: encode(soxr.resample(w, 44_100, RATE, quality="LQ")) for name, w in music.waveforms.items()}
        result = no_fault(audit_arrays(music, tmp_path / "dump", codes))
        (note,) = result.findings
        assert (note.kind, note.count) == (Kind.CLOSE, 6)
        assert "not in full" in note.text

    def test_full_scale(self, speech: Corpus, check: Audit) -> None:
        codes = {name: encode(w / np.abs(w).max()) for name, w in speech.waveforms.items()}
        assert only_fault(check(codes)).kind is Kind.PEAK_NORMALISED


class TestNumbers:
    def test_other_weights(self, speech: Corpus, check: Audit, tmp_path: Path) -> None:
        other = _with_other_codebooks(tmp_path / "other")
        codec = load_codec(CodecRecipe(model=other, bandwidth_kbps=6.0), device="cpu")
        found = only_fault(check({n: codec.encode([w[None]])[0].codes for n, w in speech.waveforms.items()}))
        assert (found.kind, found.count) == (Kind.OTHER_WEIGHTS, 12)
        result = no_fault(audit(str(tmp_path / "dump"), audio=str(speech.folder), codec=["demo", other]))
        assert (result.codec, result.agreeing) == (other, 12)

    def test_another_bandwidth_than_said(self, speech: Corpus, check: Audit, tmp_path: Path) -> None:
        codes = {name: array[:4] for name, array in speech.codes.items()}
        found = only_fault(check(codes, bandwidth_kbps=6.0))
        assert found.kind is Kind.CODEBOOKS
        assert "4 codebooks, 8 were said" in found.text
        assert no_fault(audit(str(tmp_path / "dump"), audio=str(speech.folder), codec="demo")).bandwidth_kbps == 3.0

    def test_two_bandwidths_in_one_dump(self, speech: Corpus, check: Audit) -> None:
        codes = {n: c if place % 4 else c[:2] for place, (n, c) in enumerate(speech.codes.items())}
        found = only_fault(check(codes))
        assert (found.kind, found.count) == (Kind.MIXED_CODEBOOKS, 3)
        assert "with 8 codebooks 9, with 2 codebooks 3" in found.text

    def test_time_and_codebooks_exchanged_in_some(self, speech: Corpus, check: Audit) -> None:
        codes = {n: c if place % 5 else c.T for place, (n, c) in enumerate(speech.codes.items())}
        result = check(codes)
        assert (fault_of(result, Kind.MIXED_LAYOUT).count, fault_of(result, Kind.TRANSPOSED).count) == (3, 3)

    def test_another_layout_than_said(self, speech: Corpus, check: Audit) -> None:
        codes = {name: array.T for name, array in speech.codes.items()}
        found = only_fault(check(codes, said=DumpSaid(axes="KT")))
        assert found.kind is Kind.TRANSPOSED
        assert "TK where KT was said" in found.text

    @pytest.mark.parametrize("stored_as", ["KT", "TK"])
    def test_reshaped_where_a_transpose_was_meant(self, stored_as: str, speech: Corpus, check: Audit) -> None:
        wrong = {
            name: c.T.reshape(c.shape) if stored_as == "KT" else c.reshape(c.T.shape)
            for name, c in speech.codes.items()
        }
        found = only_fault(check(wrong))
        assert (found.kind, found.count) == (Kind.RESHAPED, 12)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int8])
    def test_eight_bits(self, dtype: Any, speech: Corpus, check: Audit) -> None:
        found = only_fault(check({name: c.astype(np.int64).astype(dtype) for name, c in speech.codes.items()}))
        assert found.kind is Kind.NARROW_TYPE

    @pytest.mark.parametrize("keeps_first", [True, False])
    def test_the_delay_pattern_left_in(self, keeps_first: bool, speech: Corpus, check: Audit) -> None:
        pattern = DelayPattern(pad_id=1024)
        delayed = {n: np.asarray(pattern.apply(c.astype(np.int64))) for n, c in speech.codes.items()}
        found = only_fault(check({n: c if keeps_first else c[:, 1:] for n, c in delayed.items()}))
        assert (found.kind, found.count) == (Kind.DELAYED, 12)

    def test_codes_that_name_no_entry(self, speech: Corpus, check: Audit) -> None:
        wild = speech.codes["c06"].astype(np.int64)
        wild[3, 40] = 2051
        result = check({**speech.codes, "c06": wild})
        found = fault_of(result, Kind.OUT_OF_RANGE)
        assert (found.count, found.examples) == (1, ("c06",))
        assert "2051, expected 0 to 1023" in found.text


def _with_other_codebooks(folder: Path) -> str:
    """The demo codec with the entries of its codebooks in another order: the same audio, other codes."""
    model = EncodecModel.from_pretrained("demo").float()
    for codebook in model.quantizer.codebooks:
        codebook.embed.copy_(codebook.embed.flip(0))
    model.save_pretrained(folder)
    return str(folder)


def _batched_by_transformers(theirs: Any, corpus: Corpus) -> Codes:
    longest = max(len(w) for w in corpus.waveforms.values())
    padded = np.stack([np.pad(w, (0, longest - len(w))) for w in corpus.waveforms.values()])
    mask = np.stack([np.arange(longest) < len(w) for w in corpus.waveforms.values()])
    with torch.no_grad():
        codes = theirs.encode(torch.from_numpy(padded)[:, None], torch.from_numpy(mask), 6.0).audio_codes[0].numpy()
    return {n: codes[place, :, : corpus.codes[n].shape[1]] for place, n in enumerate(corpus.waveforms)}
