"""A run on a cluster whose nodes come and go, in a process of its own: tests have another Ray in theirs.

    python -m tests.tokenizer_jobs.elastic_run OUTPUT

One run of short units, for as long as it takes. Nodes with one encoder each:

    head (no CPUs)  ────────────────────────────────────────────────────────▶
    first                  comes late ──▶ drains ···
    second                                   joins ──▶ killed
    third                                                  joins ────────────▶

Prints one JSON object: what ran where and when, and what became of it.
"""

import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # type: ignore[attr-defined]

from tests.tokenizer_jobs.clips import encode, speechlike
from tests.tokenizer_jobs.cluster_parts import HashEncoder
from tests.tokenizer_jobs.test_cluster import make_job
from tests.waiting import wait_until
from tokenizer_jobs.cluster import RayExecutor, crew
from tokenizer_jobs.cluster.session import _environment, _private_environment
from tokenizer_jobs.config import CodecRecipe, Runtime
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.pipeline import UnitDone
from tokenizer_jobs.records import Item, WorkUnit
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.stopping import StopRequest

PATIENCE_SECONDS = 90.0


class NotingEncoder(HashEncoder):
    """Takes a second for each unit, and notes when it began and on which node."""

    def run(self, unit: WorkUnit, *, number: int, careful: bool) -> UnitDone:
        note = {"node": ray.get_runtime_context().get_node_id(), "unit": unit.index, "began": time.time()}
        with (Path(self._job.output) / "units.jsonl").open("a") as notes:
            notes.write(json.dumps(note) + "\n")
        time.sleep(1.0)
        return super().run(unit, number=number, careful=careful)


def begun(output: Path, node_id: str | None = None) -> list[dict[str, Any]]:
    path = output / "units.jsonl"
    notes = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [note for note in notes if node_id in (None, note["node"])]


def wait_for(condition: Callable[[], object], run: threading.Thread) -> None:
    def holds() -> object:
        found = condition()
        assert found or run.is_alive(), "the run ended too early"
        return found

    wait_until(holds, what="units on the nodes", seconds=PATIENCE_SECONDS)


def run_units(output: Path, address: str, units: Iterable[WorkUnit], stop: StopRequest, outcomes: list[Any]) -> None:
    runtime = Runtime(device="cpu", ray_address=address, placement_timeout_seconds=60)
    job, recipe = make_job(output, FilesSource(paths=(str(output.parent),))), CodecRecipe(model="demo")
    try:
        with RayExecutor(job, codec_recipe=recipe, runtime=runtime, encoder_class=NotingEncoder) as executor:
            outcomes += executor.run(units, stop=stop)
    except Exception:  # whatever it is: this is a thread, and the process that reads the outcomes is told
        outcomes.append(traceback.format_exc())
        raise


def refused(output: Path, address: str, **runtime: Any) -> str:
    """What a run says that finds no place."""
    tried = Runtime(ray_address=address, placement_timeout_seconds=1.5, **runtime)
    try:
        with RayExecutor(
            make_job(output, FilesSource(paths=(str(output.parent),))),
            codec_recipe=CodecRecipe(model="demo"),
            runtime=tried,
        ):
            return "it was placed"
    except ConfigError as error:
        return str(error)


def make_units(enough: threading.Event, *, clip: Path) -> Iterator[WorkUnit]:
    """Units of one clip each, until there were enough."""
    clip.write_bytes(encode(speechlike(16_000, channels=1), container="WAV", coding="PCM_16"))
    for index in itertools.count():
        if enough.is_set():
            return
        item = Item(id=f"{index}", source_uri=str(clip), estimated_seconds=1.0)
        yield WorkUnit(generation=1, index=index, unit_id=f"{index:016x}", items=(item,))


def come_and_go(cluster: Cluster, output: Path) -> dict[str, Any]:
    stop, enough, outcomes = StopRequest(grace_seconds=0), threading.Event(), list[Any]()
    units = make_units(enough, clip=output.parent / "clip.wav")
    run = threading.Thread(target=run_units, args=(output, cluster.address, units, stop, outcomes))
    run.start()
    try:
        time.sleep(4.0)
        began = time.time()
        first = cluster.add_node(num_cpus=1, resources={"encoder": 1})
        wait_for(lambda: len(begun(output, first.node_id)) >= 2, run)
        second = cluster.add_node(num_cpus=1, resources={"encoder": 1})
        wait_for(lambda: len(begun(output, second.node_id)) >= 2, run)
        GcsClient(address=cluster.address).drain_node(
            first.node_id, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "spot", int((time.time() + 600) * 1000)
        )
        drained = time.time()
        wait_for(lambda: len([one for one in begun(output, second.node_id) if one["began"] > drained + 4]) >= 2, run)
        held_by_second = [one["unit"] for one in begun(output, second.node_id)][-1]
        cluster.remove_node(second, allow_graceful=False)
        third = cluster.add_node(num_cpus=1, resources={"encoder": 1})
        wait_for(lambda: len(begun(output, third.node_id)) >= 4, run)
        enough.set()
        run.join(PATIENCE_SECONDS)
    finally:
        stop.abandon()
        run.join(20)
    return {
        "outcomes": [type(one).__name__ if not isinstance(one, str) else one for one in outcomes],
        "began_before_the_first_node": [one for one in begun(output) if one["began"] < began],
        "begun": {
            name: len(begun(output, node.node_id)) for name, node in zip("123", (first, second, third), strict=True)
        },
        "begun_on_drained": [one["began"] - drained for one in begun(output, first.node_id) if one["began"] > drained],
        "look_seconds": crew.NODES_SECONDS,
        "units_again": [one["unit"] for one in begun(output, third.node_id) if one["unit"] == held_by_second],
    }


def main() -> None:
    output = Path(sys.argv[1])
    with _environment(_private_environment()):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            told = come_and_go(cluster, output)
            told["no_gpu"] = refused(output, cluster.address, device="cuda")
            told["too_many"] = refused(output, cluster.address, device="cpu", encoders=5)
        finally:
            cluster.shutdown()  # type: ignore[no-untyped-call]
    print(json.dumps(told))
    sys.stdout.flush()
    os._exit(0)  # Ray's own exit hooks would look for what was ended above


if __name__ == "__main__":
    main()
