import pytest

from tokenizer_jobs.cluster.placement import Node, Placement, place
from tokenizer_jobs.config import Runtime
from tokenizer_jobs.errors import ConfigError


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
