"""Audits of clean dumps raise no alarm whatever their form; scripts with known bugs are caught; the command says so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from encodec_core import EncodecModel
from tests.encodec_core.models import in_meta, in_transformers
from tests.tokenizer_jobs.audits import (
    RATE,
    Codes,
    Corpus,
    audit_arrays,
    encode,
    fault_of,
    make_corpus,
    no_fault,
)
from tests.tokenizer_jobs.dumps import laid_out, save_npy
from tokenizer_jobs.auditing import Kind, audit
from tokenizer_jobs.cli import main
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.importing import DumpSaid
from tokenizer_jobs.job import run

SPEECH = Path(__file__).parents[3] / "shared" / "audio" / "speech"


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("speech") / "audio", number=8)


class TestCleanDumps:
    @pytest.mark.parametrize("axes", ["KT", "TK", "1KT", "1TK", "flat", "flat-by-codebook"])
    @pytest.mark.parametrize("offsets", [False, True])
    def test_every_layout(self, axes: str, offsets: bool, speech: Corpus, tmp_path: Path) -> None:
        codes = {name: laid_out(array, axes, offsets=offsets) for name, array in speech.codes.items()}
        result = no_fault(audit_arrays(speech, tmp_path / "dump", codes))
        assert (result.agreeing, result.num_codebooks, result.bandwidth_kbps) == (8, 8, 6.0)
        assert result.layout == axes.removeprefix("1")
        kinds = {found.kind for found in result.findings}
        assert kinds == {*([Kind.OFFSETS] if offsets else []), *([Kind.TIME_MAJOR] if "TK" in axes else [])}

    def test_a_lower_bandwidth_is_the_beginning_of_a_higher_one(self, speech: Corpus, tmp_path: Path) -> None:
        result = no_fault(audit_arrays(speech, tmp_path / "dump", {n: c[:2] for n, c in speech.codes.items()}))
        assert (result.bandwidth_kbps, result.agreeing, result.findings) == (1.5, 8, ())

    @pytest.mark.parametrize("make", [in_transformers, in_meta], ids=["transformers", "encodec"])
    def test_codes_of_the_references_one_by_one(
        self, make: Callable[[EncodecModel], Any], speech: Corpus, tmp_path: Path
    ) -> None:
        theirs = make(EncodecModel.from_pretrained("demo").float())
        codes = {name: _encode_by(theirs, w) for name, w in speech.waveforms.items()}
        result = no_fault(audit_arrays(speech, tmp_path / "dump", codes))
        assert (result.agreeing, result.findings) == (8, ())

    def test_a_table_whose_ids_are_paths(self, speech: Corpus, tmp_path: Path) -> None:
        paths = [f"/elsewhere/{name}.wav" for name in speech.ids]
        table = pa.table({"file": paths, "tokens": [speech.codes[name].T.tolist() for name in speech.ids]})
        pq.write_table(table, tmp_path / "d.parquet", row_group_size=3)
        result = no_fault(audit(str(tmp_path / "d.parquet"), audio=str(speech.folder), codec="demo"))
        assert (result.ids, result.matched) == ("field:file", 8)

    def test_a_dictionary_of_tensors(self, speech: Corpus, tmp_path: Path) -> None:
        (tmp_path / "dump").mkdir()
        for name, codes in speech.codes.items():
            found = {"audio_codes": torch.from_numpy(codes.astype(np.int64))[None, None], "n": torch.tensor([1])}
            torch.save(found, tmp_path / "dump" / f"{name}.pt")
        said = DumpSaid(key="audio_codes")
        assert no_fault(audit(str(tmp_path / "dump"), audio=str(speech.folder), codec="demo", said=said)).agreeing == 8

    def test_an_output_of_ours_with_the_codec_that_it_names(self, speech: Corpus, tmp_path: Path) -> None:
        (speech.folder / "broken.wav").write_bytes(b"RIFF" + bytes(2000))
        try:
            config = {
                "output": str(tmp_path / "out"),
                "recipe": {"codec": {"model": "demo", "bandwidth_kbps": 3.0}},
                "selection": {"source": {"kind": "files", "paths": [str(speech.folder)]}},
                "runtime": {"executor": "inline"},
            }
            run(JobConfig.model_validate(config))
            result = no_fault(audit(str(tmp_path / "out"), audio=str(speech.folder)))
        finally:
            (speech.folder / "broken.wav").unlink()
        assert (result.codec, result.num_codebooks, result.agreeing, result.recordings) == ("demo", 4, 8, 9)

    @pytest.mark.skipif(not SPEECH.is_dir(), reason=f"real recordings are not there: {SPEECH}")
    def test_real_speech_by_the_references_own_resampler(self, tmp_path: Path) -> None:
        from tokenizer_jobs.decode import AudioTarget, decode_item
        from tokenizer_jobs.source_config import FilesSource
        from tokenizer_jobs.sources import make_source

        source = make_source(FilesSource(paths=(str(SPEECH),)))
        target = AudioTarget(sample_rate=RATE, channels=1, channel_policy="mono", resampler="reference")
        codes = Codes()
        for item in list(source.list().items)[:4]:
            waveform = decode_item(item, position=0, source=source, target=target).float_waveform()[0]
            codes[item.id.rpartition(".")[0]] = encode(waveform)
        dump = save_npy(tmp_path / "dump", codes)
        result = audit(str(dump), audio=str(SPEECH), codec="demo")
        kinds = {found.kind for found in result.findings}
        assert kinds <= {Kind.MISSING_CODES, Kind.REFERENCE_RESAMPLER, Kind.CLOSE}
        assert result.first_codebook > 0.9


class TestWhatASampleCanSay:
    def test_what_was_not_looked_at_is_bounded(self, speech: Corpus, tmp_path: Path) -> None:
        result = no_fault(audit_arrays(speech, tmp_path / "dump", speech.codes, sample=3))
        assert result.sampled == 3
        assert result.unseen == pytest.approx(1 - 0.05 ** (1 / 3))

    def test_all_of_it_leaves_nothing_open(self, speech: Corpus, tmp_path: Path) -> None:
        assert no_fault(audit_arrays(speech, tmp_path / "dump", speech.codes, sample=8)).unseen == 0

    def test_the_seed_draws_the_sample(self, speech: Corpus, tmp_path: Path) -> None:
        mended = {**speech.codes, "c03": speech.codes["c03"][::-1]}
        save_npy(tmp_path / "dump", mended)
        found = {
            audit(str(tmp_path / "dump"), audio=str(speech.folder), codec="demo", sample=3, seed=seed).exit_code
            for seed in range(4)
        }
        assert found == {0, 1}

    def test_no_sample_is_refused(self, speech: Corpus, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="sample = 0"):
            audit_arrays(speech, tmp_path / "dump", speech.codes, sample=0)


class TestScripts:
    """Twenty lines each, in the manner of published tools, with the bug that each of these has."""

    def test_lengths_taken_from_a_list_of_another_length(self, speech: Corpus, tmp_path: Path) -> None:
        """A batch script for 16 clips at once, which appends two lengths a clip and reads them one by one."""
        files, dump = sorted(speech.folder.glob("*.wav")), tmp_path / "dump"
        dump.mkdir()
        for start in range(0, len(files), 4):
            batch, lengths = [], []
            for path in files[start : start + 4]:
                samples, _ = soundfile.read(path, dtype="float32")
                batch.append(samples)
                lengths.append(len(samples))
                lengths.append(-(-len(samples) // 320))
            longest = max(map(len, batch))
            frames = [length if length < 1000 else -(-length // 320) for length in lengths]
            for number, samples in enumerate(batch):
                codes = encode(np.pad(samples, (0, longest - len(samples))))
                np.save(dump / f"{files[start + number].stem}.npy", codes[:, : frames[number]].astype(np.int16))
        result = audit(str(dump), audio=str(speech.folder), codec="demo")
        found = fault_of(result, Kind.CUT_SHORT)
        assert (found.count, found.examples) == (6, ("c01", "c02", "c03"))
        assert "exactly as many as the audio of an item near them" in found.text

    def test_a_run_that_appends_to_what_is_there(self, speech: Corpus, tmp_path: Path) -> None:
        """One file per name, whatever the folder; what is there already is read and written back with more behind."""
        audio, dump = tmp_path / "audio", tmp_path / "dump"
        for folder, names in (("alice", ["c01", "c02"]), ("bob", ["c03", "c04"])):
            (audio / folder).mkdir(parents=True)
            for number, name in enumerate(names):
                soundfile.write(audio / folder / f"{number:03}.wav", speech.waveforms[name], RATE, subtype="FLOAT")
        dump.mkdir()
        for path in sorted(audio.rglob("*.wav")):
            samples, _ = soundfile.read(path, dtype="float32")
            target = dump / f"{path.stem}.npy"
            codes = encode(samples)
            if target.exists():
                codes = np.concatenate([np.load(target), codes], axis=1)
            np.save(target, codes)
        result = audit(str(dump), audio=str(audio), codec="demo")
        missing = fault_of(result, Kind.MISSING_CODES)
        assert (missing.count, missing.examples) == (2, ("bob/000.wav", "bob/001.wav"))
        assert "2 of them share their name" in missing.text
        assert fault_of(result, Kind.TOO_LONG).count == 2


class TestCommand:
    def test_a_faulty_dump_fails_with_a_line_for_each_kind(
        self, speech: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        dump = save_npy(tmp_path / "dump", {n: c[:, :80] for n, c in speech.codes.items() if n != "c05"})
        words = ["audit", str(dump), "--audio", str(speech.folder), "--codec", "demo", "--sample", "4"]
        assert main(words) == 1
        said = capsys.readouterr()
        assert "2 kinds of fault found" in said.out
        assert "4 items of 7, seed 0" in said.out
        assert "none of the sample of 4 has" in said.out
        assert said.err.count("problem: ") == 2
        assert "problem: 1 recording of 8 have no codes (such as 'c05.wav')" in said.err

    def test_a_clean_dump_passes_and_json_is_one_object(
        self, speech: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        dump = save_npy(tmp_path / "dump", speech.codes)
        assert main(["audit", str(dump), "--audio", str(speech.folder), "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert (content["codec"], content["findings"], content["agreeing"]) == ("demo", [], 8)


def _encode_by(theirs: Any, waveform: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Codes [8, T] by transformers or encodec."""
    batch = torch.from_numpy(waveform)[None, None]
    with torch.no_grad():
        if hasattr(theirs, "set_target_bandwidth"):
            theirs.set_target_bandwidth(6.0)
            return np.asarray(theirs.encode(batch)[0][0][0])
        return np.asarray(theirs.encode(batch, None, 6.0).audio_codes[0, 0])
