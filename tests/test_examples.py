"""The examples run as users run them, in their short form, on codes made here and on those of the demo codec."""

import importlib
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch.nn import functional

from encodec_core import EncodecModel
from encodec_core.weights import weights_sha256
from tests.conftest import Quickstart
from tokenizer_jobs.importing import CodecClaim, import_codes
from tokenizer_jobs.training import DelayPattern

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
SIZE = 16
FRAME_RATE = 75


@pytest.fixture(scope="module")
def example() -> Iterator[Callable[[str], ModuleType]]:
    """Gives an example by its name, as a module; a script finds what is beside it, and so do these."""
    names = [path.stem for path in EXAMPLES.glob("*.py")]
    sys.path.insert(0, str(EXAMPLES))
    yield importlib.import_module
    sys.path.remove(str(EXAMPLES))
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An output of codes of which codebook 1 follows from codebook 0, so that counts of one codebook cannot know it."""
    folder = tmp_path_factory.mktemp("codes")
    random = np.random.default_rng(0)
    (folder / "dump").mkdir()
    for number in range(60):
        first = (np.cumsum(random.integers(0, 3, size=100)) + random.integers(SIZE)) % SIZE
        np.save(folder / "dump" / f"{number:02}.npy", np.stack([first, (5 * first + 3) % SIZE]).astype(np.uint16))
    claim = CodecClaim(sample_rate=24_000, frame_rate=FRAME_RATE, codebook_size=SIZE)
    import_codes(str(folder / "dump"), str(folder / "out"), codec=claim)
    return str(folder / "out")


@pytest.fixture(scope="module")
def speech(quickstart: Quickstart) -> str:
    """An output of the demo codec."""
    return str(quickstart[0])


def test_the_language_model_beats_counts_where_codebooks_hang_together(
    example: Callable[[str], ModuleType], codes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work, drawing = tmp_path / "work", tmp_path / "curve.svg"
    words = [codes, "--work", str(work), "--preset", "tiny"]
    if importlib.util.find_spec("matplotlib") is not None:
        words += ["--plot", str(drawing)]
    example("train_audio_lm").main(words)
    found = json.loads((work / "results.json").read_text())
    assert found["held_out"] < 0.9 * found["order_one"], capsys.readouterr().out
    assert found["held_out_of_codebooks"][1] < 0.5 * found["order_one_of_codebooks"][1]
    assert math.isclose(found["order_one_of_codebooks"][0], math.log2(3), rel_tol=0.1)
    curve = [json.loads(line) for line in (work / "curve.jsonl").read_text().splitlines()]
    assert [point["update"] for point in curve] == sorted({point["update"] for point in curve})
    assert curve[-1]["choosing"] < curve[0]["choosing"]
    assert drawing.exists() == ("--plot" in words)


def test_what_is_held_out_is_never_trained_on(example: Callable[[str], ModuleType], codes: str) -> None:
    script, presets = example("train_audio_lm"), example("audio_lm").PRESETS
    split = script.read_split(codes)
    dataset = script.training_data(codes, split, preset=presets["tiny"], seed=0)
    seen = {sample["id"] for sample in itertools.islice(dataset, 2 * len(split.fitted))}
    assert seen == split.fitted.keys()
    assert seen.isdisjoint({*split.choosing, *split.held_out})


def test_training_that_was_stopped_ends_in_the_same_bits(
    example: Callable[[str], ModuleType], codes: str, tmp_path: Path
) -> None:
    def train(name: str, *more: str) -> dict[str, Any]:
        words = [codes, "--work", str(tmp_path / name), "--preset", "tiny", "--updates", "30", *more]
        example("train_audio_lm").main(words)
        state: dict[str, Any] = torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        return state

    whole = train("whole")
    stopped = train("parts", "--minutes", "0")
    assert stopped["update"] < whole["update"]
    resumed = train("parts")
    assert resumed["update"] == whole["update"]
    assert resumed["dataset"] == whole["dataset"]
    for name, tensor in whole["model"].items():
        assert torch.equal(resumed["model"][name], tensor), name
    with pytest.raises(SystemExit, match="other settings"):
        train("parts", "--updates", "40")


def test_two_ranks_train_and_one_goes_on(example: Callable[[str], ModuleType], codes: str, tmp_path: Path) -> None:
    words = [codes, "--work", str(tmp_path), "--preset", "tiny", "--updates", "40", "--threads", "1"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = run_words(*launch, EXAMPLES / "train_audio_lm.py", *words, "--minutes", "0")
    assert done.returncode == 0, done.stderr
    stopped = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    state = json.loads(stopped["dataset"])
    taken = state["epoch"] * (45 // 2) + state["count"]
    assert (state["world_size"], taken) == (2, stopped["update"] * 4), "each rank took half of 8 crops an update"
    example("train_audio_lm").main(words)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["update"] == 40


def test_a_recording_is_continued_and_decoded(
    example: Callable[[str], ModuleType], speech: str, codes: str, tmp_path: Path
) -> None:
    audio = tmp_path / "next.wav"
    words = ["--work", str(tmp_path / "work"), "--preset", "tiny", "--updates", "4", "--prompt-seconds", "0.4"]
    more = ["--continue", str(audio), "--seconds", "0.2"]
    example("train_audio_lm").main([speech, *words, *more, "--codec", "demo"])
    waveform, rate = soundfile.read(audio)
    assert (len(waveform), rate) == (round(0.6 * FRAME_RATE) * 320, 24_000)
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() > 0
    other = [codes, "--work", str(tmp_path / "other"), "--preset", "tiny", "--updates", "1", *more, "--codec", "demo"]
    with pytest.raises(SystemExit, match="cannot decode 2 codebooks of 16 entries"):
        example("train_audio_lm").main(other)


def test_a_codec_of_other_weights_decodes_nothing(example: Callable[[str], ModuleType], tmp_path: Path) -> None:
    demo = EncodecModel.from_pretrained("demo")
    recorded = {"codebook_size": 1024, "frame_rate": 75.0, "codec": "demo", "weights_sha256": weights_sha256(demo)}
    codes = torch.zeros(8, 10, dtype=torch.int64)
    with torch.no_grad():
        next(demo.decoder.parameters()).add_(0.1)
    demo.save_pretrained(tmp_path / "other")
    write = example("train_audio_lm").write_audio
    with pytest.raises(SystemExit, match="other weights than demo"):
        write(codes, tmp_path / "out.wav", codec=str(tmp_path / "other"), recorded=recorded)
    write(codes, tmp_path / "out.wav", codec="demo", recorded=recorded)
    assert soundfile.info(tmp_path / "out.wav").frames == 3200


def test_a_continuation_keeps_its_prompt_and_is_one_seed_s(example: Callable[[str], ModuleType]) -> None:
    model_file = example("audio_lm")
    torch.manual_seed(0)
    pattern = DelayPattern(pad_id=SIZE)
    model = model_file.AudioLM(
        model_file.PRESETS["tiny"], num_codebooks=3, vocabulary_size=pattern.vocabulary_size, pad_id=pattern.pad_id
    )
    torch.nn.init.normal_(model.heads.weight)
    prompt = np.random.default_rng(0).integers(0, SIZE, size=(3, 10)).astype(np.uint16)

    def draw(seed: int, *, top_k: int = SIZE) -> torch.Tensor:
        codes: torch.Tensor = model_file.continued(
            model, prompt, pattern=pattern, num_frames=7, temperature=1.0, top_k=top_k, seed=seed
        )
        return codes

    assert draw(1).shape == (3, 17)
    assert np.array_equal(draw(1)[:, :10].numpy(), prompt)
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(draw(1, top_k=1), draw(2, top_k=1)), "of one candidate nothing is drawn"


def test_the_model_looks_back_only(example: Callable[[str], ModuleType]) -> None:
    model_file = example("audio_lm")
    torch.manual_seed(0)
    model = model_file.AudioLM(model_file.PRESETS["tiny"], num_codebooks=2, vocabulary_size=SIZE + 1, pad_id=SIZE)
    torch.nn.init.normal_(model.heads.weight)
    model.eval()
    tokens = torch.randint(SIZE, (1, 2, 100))
    changed = tokens.clone()
    changed[..., 60] = (changed[..., 60] + 1) % SIZE
    differs = (model(tokens) - model(changed)).abs().amax((0, 1, 3)) > 1e-5
    assert not differs[:60].any()
    assert differs[60]
    reach = 2 * (model.preset.window - 1)  # of two layers
    assert not differs[60 + reach + 1 :].any()


@pytest.mark.parametrize("name", ["AR ", "NAR"])
def test_both_models_of_valle_learn_from_one_step(
    example: Callable[[str], ModuleType], codes: str, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    example("valle_shapes").main([codes, "--crop-frames", "50"])
    said = capsys.readouterr().out
    assert f"AR  tokens [4, 52] from {SIZE + 1} (BOS) to {SIZE + 2} (EOS)" in said
    assert "NAR tokens [4, 2, 50], levels [1, 1, 1, 1]" in said
    (line,) = [line for line in said.splitlines() if line.startswith(f"{name} inputs")]
    before, after = (float(word.rpartition(" ")[2]) for word in line.split(", then "))
    assert after < before < 1.5 * math.log(SIZE)


def test_musicgen_learns_from_our_labels(
    example: Callable[[str], ModuleType], codes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: its MusicGen is not fed")
    example("musicgen_from_codes").main([codes, "--updates", "3"])
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert np.isfinite(losses).all()
    assert losses == sorted(losses, reverse=True)


def test_the_labels_are_those_that_musicgen_predicts(example: Callable[[str], ModuleType]) -> None:
    """Its loss over labels is the loss of its scores of our inputs against our targets."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: its MusicGen is not fed")
    torch.manual_seed(0)
    pattern = DelayPattern(pad_id=SIZE)
    tokens = pattern.apply(torch.randint(SIZE, (2, 3, 20)), lengths=[20, 13])
    config = transformers.MusicgenDecoderConfig(
        vocab_size=SIZE,
        num_codebooks=3,
        pad_token_id=SIZE,
        bos_token_id=SIZE,
        hidden_size=16,
        ffn_dim=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_factor=1.0,
    )
    model = transformers.MusicgenForCausalLM(config).eval()
    step = pattern.supervise(tokens)
    with torch.no_grad():
        theirs = model(labels=example("musicgen_from_codes").labels_of(tokens)).loss
        scores = model(input_ids=step.inputs.flatten(0, 1)).logits.view(2, 3, -1, SIZE)
    targets = torch.where(step.loss_weights > 0, step.targets, -100)
    ours = [functional.cross_entropy(scores[:, k].flatten(0, 1), targets[:, k].flatten()) for k in range(3)]
    torch.testing.assert_close(theirs, torch.stack(ours).mean())


def test_without_transformers_the_example_says_so(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install transformers"):
        example("musicgen_from_codes").main(["nowhere"])


def run_words(*words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(word) for word in words], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
