"""Work units spread over the machines of a Ray cluster. The only room that imports Ray, and only when it is used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizer_jobs.cluster.driver import RayExecutor

__all__ = ["RayExecutor"]


def __getattr__(name: str) -> Any:
    # Decode workers import this package on their way to `decode_tasks`; they need neither the driver nor torch.
    if name == "RayExecutor":
        from tokenizer_jobs.cluster.driver import RayExecutor

        return RayExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
