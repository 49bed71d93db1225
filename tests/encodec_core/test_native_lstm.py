"""The LSTM in C gives every lane the bits that torch's LSTM gives it alone.

Letters in shapes: T frames, N lanes, C channels, L layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from encodec_core.fast.native import kernels, why_absent
from encodec_core.fast.native.shared_object import pointer

pytestmark = [
    pytest.mark.skipif(kernels() is None, reason=f"no kernels: {why_absent()}"),
    pytest.mark.skipif(
        torch.backends.cpu.get_cpu_capability() != "AVX512",
        reason="torch's own LSTM is not oneDNN's for AVX-512 here",
    ),
]

BLOCK = 16
AT_ONCE = 128
"""Rows of the layer's product that the kernel computes at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """Features, or outputs, and the states beside them."""

    steps: Tensor
    """`[T, N, C]`."""
    hidden: Tensor
    """`[L, N, C]`."""
    cell: Tensor
    """`[L, N, C]`."""

    def cut(self, start: int, end: int, *, after: "Lanes | None" = None) -> "Lanes":
        """Return some of the frames, with the state at `start` or that after the lanes given."""
        state = after or self
        return Lanes(steps=self.steps[start:end], hidden=state.hidden, cell=state.cell)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_lanes(*, num_frames: int, num_lanes: int, channels: int, num_layers: int = 2) -> Lanes:
    state = (num_layers, num_lanes, channels)
    steps = 2 * normal(num_frames, num_lanes, channels, seed=num_frames)
    return Lanes(steps=steps, hidden=0.5 * normal(*state, seed=1), cell=normal(*state, seed=2))


def random_lstm(channels: int, *, num_layers: int = 2) -> nn.LSTM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(channels)
        return nn.LSTM(channels, channels, num_layers).requires_grad_(False).eval()


def torch_runs_alone(lstm: nn.LSTM, lanes: Lanes) -> Lanes:
    """Run each lane by itself, in the layout in which both references call their LSTM."""
    outputs, states = [], []
    for lane in range(lanes.steps.shape[1]):
        features = lanes.steps[:, lane].t().contiguous()[None]
        state = (lanes.hidden[:, lane, None].contiguous(), lanes.cell[:, lane, None].contiguous())
        with torch.no_grad():
            output, state = lstm(features.permute(2, 0, 1), state)
        outputs.append(output)
        states.append(state)
    hidden, cell = (torch.cat(parts, 1) for parts in zip(*states, strict=True))
    return Lanes(steps=torch.cat(outputs, 1), hidden=hidden, cell=cell)


def packed_layer(lstm: nn.LSTM, layer: int) -> tuple[Tensor, Tensor]:
    library = kernels()
    assert library is not None
    named = dict(lstm.named_parameters())
    packed = torch.empty(library.encodec_lstm_packed_size(lstm.hidden_size))
    of_input, of_hidden = (named[f"weight_{name}_l{layer}"] for name in ("ih", "hh"))
    library.encodec_lstm_pack(pointer(of_input), pointer(of_hidden), lstm.hidden_size, pointer(packed))
    return packed, named[f"bias_ih_l{layer}"] + named[f"bias_hh_l{layer}"]


def run(
    lstm: nn.LSTM,
    lanes: Lanes,
    *,
    frames_of_recording: int | None = None,
    is_blocked: bool = False,
    adds_input: bool = False,
) -> Lanes:
    """Run all lanes together.

    Args:
        frames_of_recording: of which the lanes are a part. None: they are the whole.
        is_blocked: hand the steps over as `[N, C / 16, T, 16]`.
        adds_input: add the features to the last layer's output.
    """
    library = kernels()
    assert library is not None
    num_frames, num_lanes, channels = lanes.steps.shape
    is_one_frame = (frames_of_recording or num_frames) == 1
    features, strides = lanes.steps.contiguous(), (channels, num_lanes * channels, BLOCK)
    if is_blocked:
        features = features.reshape(num_frames, num_lanes, -1, BLOCK).permute(1, 2, 0, 3).contiguous()
        strides = (features.stride(0), features.stride(2), features.stride(1))
    hidden, cell, output = lanes.hidden.clone(), lanes.cell.clone(), torch.empty_like(features)
    scratch = torch.empty(library.encodec_lstm_scratch_size(num_lanes, channels))
    for layer in range(lstm.num_layers):
        packed, bias = packed_layer(lstm, layer)
        steps = output if layer else features
        residual = features if adds_input and layer == lstm.num_layers - 1 else None
        library.encodec_lstm_layer(
            *(pointer(steps), pointer(residual), pointer(output), *strides, num_frames, num_lanes, channels),
            *(pointer(packed), pointer(bias), pointer(hidden[layer]), pointer(cell[layer]), pointer(scratch)),
            int(is_one_frame),
        )
    if is_blocked:
        output = output.permute(2, 0, 1, 3).flatten(2)
    return Lanes(steps=output, hidden=hidden, cell=cell)


def assert_same_bits(ours: Lanes, theirs: Lanes) -> None:
    for name in ("steps", "hidden", "cell"):
        mine, its = getattr(ours, name), getattr(theirs, name)
        assert mine.shape == its.shape
        num_unequal = int((mine.contiguous().view(torch.int32) != its.contiguous().view(torch.int32)).sum())
        assert num_unequal == 0, f"{name}: {num_unequal} of {mine.numel()} differ, by up to {(mine - its).abs().max()}"


@pytest.mark.parametrize("num_lanes", range(1, 17))
def test_any_number_of_lanes_gives_each_the_bits_that_it_has_alone(num_lanes: int) -> None:
    lstm = random_lstm(64)
    lanes = random_lanes(num_frames=2 * AT_ONCE // num_lanes + 1, num_lanes=num_lanes, channels=64)
    assert_same_bits(run(lstm, lanes), torch_runs_alone(lstm, lanes))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 5, 17, 75, AT_ONCE, AT_ONCE + 1])
@pytest.mark.parametrize("channels", [16, 48, 128])
def test_any_number_of_frames_and_channels_gives_the_bits_of_torch(channels: int, num_frames: int) -> None:
    lstm = random_lstm(channels)
    lanes = random_lanes(num_frames=num_frames, num_lanes=3, channels=channels)
    assert_same_bits(run(lstm, lanes), torch_runs_alone(lstm, lanes))


@pytest.mark.parametrize(("num_frames", "num_lanes"), [(1, 1), (1, 16), (2, 5), (3, 16), (75, 1), (75, 2)])
def test_the_width_of_the_published_codecs_gives_the_bits_of_torch(num_frames: int, num_lanes: int) -> None:
    lstm = random_lstm(512)
    lanes = random_lanes(num_frames=num_frames, num_lanes=num_lanes, channels=512)
    assert_same_bits(run(lstm, lanes), torch_runs_alone(lstm, lanes))


@pytest.mark.parametrize("cuts", [(1,), (29,), (1, 2, 3), (10, 20)])
def test_pieces_give_the_bits_of_the_whole(cuts: Sequence[int]) -> None:
    lstm, num_frames = random_lstm(128), 30
    lanes = random_lanes(num_frames=num_frames, num_lanes=4, channels=128)
    pieces: list[Lanes] = []
    for start, end in zip((0, *cuts), (*cuts, num_frames), strict=True):
        piece = lanes.cut(start, end, after=pieces[-1] if pieces else None)
        pieces.append(run(lstm, piece, frames_of_recording=num_frames))
    joined = torch.cat([piece.steps for piece in pieces])
    assert_same_bits(Lanes(steps=joined, hidden=pieces[-1].hidden, cell=pieces[-1].cell), torch_runs_alone(lstm, lanes))


def test_a_recording_of_one_frame_is_rounded_in_an_order_of_its_own() -> None:
    lstm, lanes = random_lstm(128), random_lanes(num_frames=1, num_lanes=4, channels=128)
    whole, begun = run(lstm, lanes), run(lstm, lanes, frames_of_recording=2)
    assert not torch.equal(whole.steps, begun.steps)
    torch.testing.assert_close(whole.steps, begun.steps)


def test_blocked_steps_give_the_same_bits() -> None:
    lstm, lanes = random_lstm(64), random_lanes(num_frames=40, num_lanes=5, channels=64)
    assert_same_bits(run(lstm, lanes, is_blocked=True), run(lstm, lanes))


@pytest.mark.parametrize("is_blocked", [False, True])
def test_the_input_is_added_to_the_output_alone(is_blocked: bool) -> None:
    lstm, lanes = random_lstm(64), random_lanes(num_frames=40, num_lanes=5, channels=64)
    plain, added = run(lstm, lanes), run(lstm, lanes, is_blocked=is_blocked, adds_input=True)
    assert_same_bits(added, Lanes(steps=plain.steps + lanes.steps, hidden=plain.hidden, cell=plain.cell))


def test_gates_of_every_magnitude_have_the_bits_of_torch() -> None:
    """Gates that are multiples of the input, from subnormal numbers to those that saturate, and cells likewise."""
    channels, num_frames = 64, 400
    lstm = random_lstm(channels, num_layers=1)
    for name, parameter in lstm.named_parameters():
        parameter.zero_()
        if name == "weight_ih_l0":
            for gate, factor in enumerate((1.0, -1.5, 0.75, 2.0)):
                parameter[gate * channels : (gate + 1) * channels] = factor * torch.eye(channels)
    lanes = random_lanes(num_frames=num_frames, num_lanes=2, channels=channels, num_layers=1)
    magnitudes = 10 ** torch.empty_like(lanes.steps).uniform_(-6, 2.5, generator=torch.Generator().manual_seed(0))
    magnitudes[::7] *= 1e-36
    magnitudes[::11] *= 1e30
    steps = magnitudes * lanes.steps.sign()
    steps[::5, :, ::3] = 0.0
    spread = Lanes(steps=steps, hidden=lanes.hidden, cell=lanes.cell)
    assert_same_bits(run(lstm, spread), torch_runs_alone(lstm, spread))
