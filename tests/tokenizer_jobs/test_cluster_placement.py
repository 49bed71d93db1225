import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_jobs.cluster.crew import Crew
from tokenizer_jobs.cluster.driver import stretched_seconds
from tokenizer_jobs.cluster.placement import (
    EncoderPlace,
    Node,
    Placement,
    describe_nodes,
    follow,
    missing,
    num_placeable,
    place,
)
from tokenizer_jobs.cluster.retry import Attempt
from tokenizer_jobs.config import Runtime
from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.records import WorkUnit
from tokenizer_jobs.watch import EncoderNow, EncoderState

AUTO = Runtime()


def node(name: str = "a", *, cpus: float = 2, gpus: float = 0, slots: float = 0) -> Node:
    return Node(node_id=name, cpus=cpus, gpus=gpus, encoder_slots=slots)


def gpu_shares(placement: Placement) -> list[float]:
    return [encoder.gpus for encoder in placement.encoders]


@pytest.mark.parametrize(
    ("num_encoders", "num_gpus", "shares"),
    [
        ("auto", 2, [1, 1]),
        (1, 2, [1]),
        (4, 2, [0.5] * 4),
        (3, 2, [1, 0.5, 0.5]),
        (3, 1, [0.3333] * 3),
        (6, 4, [1, 1, 0.5, 0.5, 0.5, 0.5]),
    ],
)
def test_encoders_share_gpus_evenly(num_encoders: object, num_gpus: int, shares: list[float]) -> None:
    runtime = Runtime.model_validate({"encoders": num_encoders})
    assert gpu_shares(place([node(cpus=16, gpus=num_gpus)], runtime)) == shares


@pytest.mark.parametrize("num_gpus", [1, 2, 3, 5, 8])
def test_shares_of_gpus_never_exceed_the_gpus(num_gpus: int) -> None:
    for num_encoders in range(1, 41):
        shares = gpu_shares(place([node(cpus=64, gpus=num_gpus)], Runtime(encoders=num_encoders)))
        assert len(shares) == num_encoders
        assert sum(round(share * 10_000) for share in shares) <= num_gpus * 10_000, "Ray counts in 1/10000"


def test_cpu_encoders_take_the_custom_resource_and_no_cpus() -> None:
    placement = place([node(slots=2)], Runtime())
    assert [encoder.encoder_slots for encoder in placement.encoders] == [1, 1]
    assert not any(encoder.gpus or encoder.node_id for encoder in placement.encoders)


def test_gpus_are_left_alone_where_the_job_says_cpu() -> None:
    assert gpu_shares(place([node(gpus=2, slots=2)], Runtime(device="cpu"))) == [0, 0]


def test_without_the_custom_resource_encoders_are_spread_by_cpus() -> None:
    placement = place([node("a", cpus=2), node("b", cpus=6)], Runtime(encoders=4))
    assert sorted(str(encoder.node_id) for encoder in placement.encoders) == ["a", "b", "b", "b"]
    assert placement.num_threads("a") == 2
    assert placement.num_threads("b") == 2
    assert "no node has the resource 'encoder'" in placement.describe()


def test_one_encoder_per_cpu_by_default() -> None:
    assert len(place([node("a", cpus=2), node("b", cpus=6)], Runtime()).encoders) == 8


def test_encoders_of_a_node_share_its_cpus_as_threads() -> None:
    assert place([node(cpus=8, slots=8)], Runtime(encoders=2)).num_threads("a") == 4
    assert place([node(cpus=8, slots=8)], Runtime()).num_threads("a") == 1
    assert place([node("a", cpus=16, gpus=4), node("b", cpus=16, gpus=4)], Runtime()).num_threads("b") == 4


def test_decode_tasks_follow_the_cpus() -> None:
    assert place([node(cpus=2, slots=2)], Runtime()).decode_tasks == 1
    assert place([node(cpus=16, gpus=1)], Runtime()).decode_tasks == 8
    assert place([node(cpus=192, gpus=1)], Runtime()).decode_tasks == 16


def test_more_units_are_in_flight_only_where_their_decode_tasks_have_places() -> None:
    assert place([node(cpus=2, slots=2)], Runtime()).units_per_encoder == 4
    assert place([node(cpus=2, slots=2)], Runtime(decode_cpus=0.5)).units_per_encoder == 2
    assert place([node(cpus=3, slots=1)], Runtime(decode_tasks=4)).units_per_encoder == 3


def test_a_gpu_takes_more_units_and_each_needs_a_place_for_one_decode_task() -> None:
    assert place([node(cpus=16, gpus=1)], Runtime()).units_per_encoder == 16
    assert place([node(cpus=8, gpus=4)], Runtime()).units_per_encoder == 8
    assert place([node(cpus=16, gpus=1, slots=1)], Runtime(device="cpu")).units_per_encoder <= 4


def test_recordings_come_in_stretches_where_the_codec_streams_and_no_slice_stands_alone() -> None:
    mono = AudioTarget(sample_rate=24_000, channels=1, streamed=True)
    assert stretched_seconds(mono) == 64 * 2**20 / 4 / 24_000
    assert stretched_seconds(replace(mono, sample_rate=48_000, channels=2)) == stretched_seconds(mono) / 4
    for whole in (replace(mono, streamed=False), replace(mono, long_audio="restart", slice_samples=320)):
        assert stretched_seconds(whole) == math.inf


def test_a_placement_is_told_in_one_line() -> None:
    told = place([node(slots=2)], Runtime()).describe()
    assert told == "2 encoders on 1 node (2 CPUs), decode by 0.25-CPU tasks, 1 a unit"


@pytest.mark.parametrize(
    ("nodes", "runtime", "message"),
    [
        ([node(slots=2)], Runtime(encoders=3), "runtime.encoders = 3, but the cluster has 2"),
        ([node(cpus=2, gpus=1)], Runtime(encoders=5), r"need 2.5 CPUs at once, but the cluster has 1 node \(2 CPUs"),
        ([node(cpus=2, gpus=1)], Runtime(decode_cpus=2), "need 4 CPUs at once"),
        ([node(cpus=2, gpus=1)], Runtime(decode_tasks=8), "8 decode tasks"),
        ([node(cpus=0.5), node("b", cpus=0.5)], Runtime(encoders=1, decode_cpus=0.75), "need 1.5 CPUs"),
    ],
)
def test_numbers_that_cannot_work_are_refused(nodes: list[Node], runtime: Runtime, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        place(nodes, runtime)


def on(placement: Placement) -> list[str]:
    return sorted(encoder.node_id or "anywhere" for encoder in placement.encoders)


def after(
    before: Placement,
    nodes: list[Node],
    runtime: Runtime = AUTO,
    *,
    held: tuple[EncoderPlace, ...] | None = None,
    vacant: tuple[EncoderPlace, ...] = (),
) -> Placement:
    return follow(before, nodes, runtime, held=before.encoders if held is None else held, vacant=vacant)


def test_encoders_are_added_for_the_gpus_and_slots_of_nodes_that_join() -> None:
    one = place([node("a", cpus=8, gpus=2)], AUTO)
    assert gpu_shares(after(one, [node("a", cpus=8, gpus=2), node("b", cpus=8, gpus=4)])) == [1] * 6
    slots = place([node("a", slots=2)], AUTO)
    assert [e.encoder_slots for e in after(slots, [node("a", slots=2), node("b", slots=1)]).encoders] == [1] * 3


def test_encoders_by_cpus_come_with_their_node_and_go_with_it() -> None:
    one = place([node("a", cpus=2)], AUTO)
    both = after(one, [node("a", cpus=2), node("b", cpus=1)])
    assert on(both) == ["a", "a", "b"]
    left = [encoder for encoder in both.encoders if encoder.node_id == "b"]
    gone = [encoder for encoder in both.encoders if encoder.node_id == "a"]
    assert on(after(both, [node("b", cpus=1)], held=tuple(left), vacant=tuple(gone))) == ["b"]


def test_a_given_number_of_encoders_by_cpus_moves_to_the_nodes_that_are_left() -> None:
    three = Runtime(encoders=3)
    before = place([node("a", cpus=2), node("b", cpus=2), node("head", cpus=0)], three)
    assert on(before) == ["a", "a", "b"], "a node without CPUs gets none"
    held = tuple(encoder for encoder in before.encoders if encoder.node_id == "b")
    assert on(after(before, [node("b", cpus=2), node("head", cpus=0)], three, held=held)) == ["b"] * 3


@pytest.mark.parametrize("runtime", [AUTO, Runtime(encoders=2)])
def test_a_lost_gpu_is_asked_for_again_whether_or_not_it_is_there(runtime: Runtime) -> None:
    before = place([node("a", cpus=4, gpus=1), node("b", cpus=4, gpus=1)], runtime)
    held, vacant = before.encoders[:1], before.encoders[1:]
    waiting = after(before, [node("b", cpus=4, gpus=1)], runtime, held=held, vacant=vacant)
    assert gpu_shares(waiting) == [1, 1]
    assert "1 of them wait for nodes to come" in waiting.describe()
    back = after(waiting, [node("b", cpus=4, gpus=1), node("c", cpus=4, gpus=1)], runtime)
    assert gpu_shares(back) == [1, 1], "the one that waits takes the new GPU"


def test_decode_tasks_and_threads_follow_the_nodes() -> None:
    one = place([node("a", cpus=4, gpus=1)], AUTO)
    assert (one.decode_tasks, one.max_in_flight) == (2, 8)
    both = after(one, [node("a", cpus=4, gpus=1), node("b", cpus=60)])
    assert (both.decode_tasks, both.max_in_flight) == (16, 16)
    assert both.num_threads("a") == 4
    joined = after(both, [node("a", cpus=4, gpus=1), node("c", cpus=8, gpus=2)])
    assert joined.num_threads("c") == 4
    left = after(place([node(cpus=8, gpus=1)], fixed := Runtime(decode_tasks=16)), [node(cpus=2, gpus=1)], fixed)
    assert (left.decode_tasks, left.max_in_flight) == (8, 1), "a unit is decoded by the places that are left"


@given(
    cpus=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    gpus=st.lists(st.integers(0, 4), min_size=6, max_size=6),
    later=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    decode_cpus=st.sampled_from([0.25, 0.5, 1.0]),
)
def test_units_in_flight_never_need_more_decode_places_than_there_are(
    cpus: list[int], gpus: list[int], later: list[int], decode_cpus: float
) -> None:
    runtime = Runtime(decode_cpus=decode_cpus)
    first = [node(f"{i}", cpus=count, gpus=gpus[i]) for i, count in enumerate(cpus)]
    try:
        placement = place(first, runtime)
    except ConfigError:
        return
    then = [node(f"{i}", cpus=count, gpus=gpus[-1 - i]) for i, count in enumerate(later)]
    placement = after(placement, then, runtime)
    places = sum(int(count / decode_cpus) for count in later)
    assert placement.max_in_flight * placement.decode_tasks <= max(1, places)


@pytest.mark.parametrize(
    ("nodes", "runtime", "lacking"),
    [
        ([node(cpus=0)], Runtime(), "0.25 CPUs, for decode tasks"),
        ([node(cpus=0, gpus=1)], Runtime(), "0.25 CPUs, for decode tasks"),
        ([node(cpus=4)], Runtime(device="cuda"), "a GPU"),
        ([node(cpus=4)], Runtime(gpus_per_encoder=0.5), "a GPU"),
        ([node(cpus=4)], Runtime(), None),
        ([node(cpus=0), node("b", cpus=1, gpus=1)], Runtime(device="cuda"), None),
    ],
)
def test_what_an_empty_cluster_lacks_is_named(nodes: list[Node], runtime: Runtime, lacking: str | None) -> None:
    found = missing(nodes, runtime)
    assert found is None if lacking is None else lacking in str(found)


def test_on_the_first_node_of_a_growing_cluster_each_of_a_number_of_encoders_takes_a_whole_gpu() -> None:
    placement = place([node(cpus=8, gpus=1)], Runtime(encoders=16), growing=True)
    assert gpu_shares(placement) == [1] * 16
    assert num_placeable(placement.encoders, placement.nodes) == 1
    assert placement.decode_tasks == 4, "CPUs are shared by those that are placed"


def test_a_growing_cluster_gets_encoders_by_cpus_as_its_nodes_come() -> None:
    eight = Runtime(encoders=8)
    first = place([node("a", cpus=2)], eight, growing=True)
    assert on(first) == ["a", "a"]
    assert on(after(first, [node("a", cpus=2), node("b", cpus=16)], eight)) == ["a", "a", *["b"] * 6]


def test_a_share_of_a_gpu_is_never_split_over_two() -> None:
    nodes = [node(cpus=16, gpus=2)]
    assert gpu_shares(place(nodes, Runtime(gpus_per_encoder=0.6))) == [0.6, 0.6]
    assert num_placeable([EncoderPlace(gpus=0.6)] * 3, nodes) == 2
    assert num_placeable([EncoderPlace(gpus=1.0), EncoderPlace(gpus=0.5), EncoderPlace(gpus=0.5)], nodes) == 3


def test_a_share_of_a_gpu_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"gpus_per_encoder = 0.5 with runtime.device = cpu has no effect"):
        place([node(cpus=4)], Runtime(device="cpu", gpus_per_encoder=0.5))


def test_nodes_are_counted_in_words() -> None:
    assert describe_nodes([node(cpus=0), node("b", cpus=16, gpus=2)]) == "2 nodes (16 CPUs, 2 GPUs)"


def test_an_encoder_that_leaves_is_not_lost_as_well() -> None:
    """Where too many were lost to start another, its vacancy stays while it ends what it holds."""
    deaf = SimpleNamespace(locate=SimpleNamespace(remote=object))
    crew = Crew(place([node(slots=1)], AUTO), runtime=AUTO, nodes=list, start=lambda *_: deaf, max_lost=0)
    crew.start()
    (encoder,) = crew._encoders
    encoder.node_id, crew._num_lost = "a", 1
    unit = WorkUnit(unit_id="u", generation=1, index=0, items=())
    crew._attempts[object()] = (encoder, Attempt(unit=unit, number=1, careful=False))
    crew._follow_nodes()
    assert crew.look() == [EncoderNow(name="encoder-0", state=EncoderState.LEAVING, num_units=1)]
