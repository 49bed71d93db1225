"""Readers of one output as the ranks and workers of a training run, in one process."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from torch.utils.data._utils import worker as torch_worker

from tokenizer_jobs.training.dataset import TokenDataset
from tokenizer_jobs.training.dealing import Sample

__all__ = ["Crew", "as_worker", "opened", "told"]


def opened(output: str, **arguments: Any) -> TokenDataset:
    return TokenDataset(output, **{"seed": 5, "num_strands": 3, "buffer_rows": 9, "crop_frames": 12} | arguments)


def told(sample: Sample) -> tuple[Any, ...]:
    """All of a sample that two may differ in, to compare bit for bit."""
    documents = [(part["id"], part["start_token"]) for part in sample.get("documents", [])]
    tokens = sample.get("codes", sample.get("tokens"))
    assert tokens is not None
    return sample.get("id"), sample.get("start_frame"), tuple(documents), tokens.numpy().tobytes()


@contextmanager
def as_worker(number: int, num_workers: int, dataset: TokenDataset) -> Iterator[None]:
    info = torch_worker.WorkerInfo(id=number, num_workers=num_workers, seed=0, dataset=dataset)
    before, torch_worker._worker_info = torch_worker._worker_info, info
    try:
        yield
    finally:
        torch_worker._worker_info = before


class Crew:
    """All workers of all ranks, one after the other in this process."""

    def __init__(
        self, output: str, world_size: int, num_workers: int, *, state: Any = None, epoch: int = 0, **arguments: Any
    ) -> None:
        self.passes: list[tuple[TokenDataset, Iterator[Sample]]] = []
        for worker in range(num_workers):
            for rank in range(world_size):
                dataset = opened(output, rank=rank, world_size=world_size, **arguments)
                dataset.set_epoch(epoch)
                if state is not None:
                    dataset.load_state_dict(state)
                with as_worker(worker, num_workers, dataset):
                    self.passes.append((dataset, iter(dataset)))

    def take(self, steps: Sequence[int]) -> list[Sample]:
        return [sample for (_, own), count in zip(self.passes, steps, strict=True) for sample in islice(own, count)]

    def rest(self) -> list[Sample]:
        """Round by round, the global sequence."""
        taken, going = list[Sample](), [own for _, own in self.passes]
        while going:
            samples = [(own, next(own, None)) for own in going]
            taken.extend(sample for _, sample in samples if sample is not None)
            going = [own for own, sample in samples if sample is not None]
        return taken

    def state(self) -> dict[str, Any]:
        return self.passes[0][0].merge_states([dataset.state_dict() for dataset, _ in self.passes])
