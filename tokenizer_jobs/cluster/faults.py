"""What a failure on the cluster means; Ray's errors are classified here and nowhere else."""

from dataclasses import dataclass

from ray.exceptions import NodeDiedError, RayActorError, RayError, RayTaskError

from tokenizer_jobs.cluster.retry import Failure
from tokenizer_jobs.errors import TransientError

__all__ = ["DecodeWorkerLostError", "EncoderBrokenError", "Fault", "NoEncoderLeftError", "classify", "decode_fault"]


class DecodeWorkerLostError(TransientError):
    """A decode task lost its process or its node, had no memory or found no place; the encoder itself is well."""


class DecodeNodeLostError(DecodeWorkerLostError):
    """The node of a decode task is gone, which says nothing of the records in its hands."""


class EncoderBrokenError(TransientError):
    """The encoder lives, but its device does not serve it any more; it must be replaced."""


class NoEncoderLeftError(TransientError):
    """Every encoder was lost and none could be started again; what was committed stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A failure after which the unit is tried again."""

    failure: Failure
    encoder_lost: bool
    """The encoder must be replaced."""
    message: str


def classify(error: RayError) -> Fault:
    """Say what the failure of a call to an encoder means.

    Raises:
        Exception: the error's own cause, when trying again cannot help: it is raised as it was in the worker.
    """
    if isinstance(error, RayTaskError):
        match error.cause:
            case DecodeNodeLostError() as cause:
                return Fault(failure=Failure.NODE_LOST, encoder_lost=False, message=str(cause))
            case DecodeWorkerLostError() as cause:
                return Fault(failure=Failure.WORKER_LOST, encoder_lost=False, message=str(cause))
            case EncoderBrokenError() as cause:
                return Fault(failure=Failure.WORKER_LOST, encoder_lost=True, message=str(cause))
            case TransientError() as cause:
                return Fault(failure=Failure.STORAGE, encoder_lost=False, message=str(cause))
            case Exception() as cause:
                raise cause from error
        raise error
    # ActorDiedError; ActorUnavailableError, where the attempt may still run: harmless, since the first commit wins;
    # NodeDiedError, WorkerCrashedError, OutOfMemoryError (the node's memory monitor), a lost result.
    kind = "died" if isinstance(error, RayActorError) else "was lost"
    return Fault(failure=Failure.WORKER_LOST, encoder_lost=True, message=f"encoder {kind}: {first_line(error)}")


def decode_fault(error: RayError) -> Exception:
    """Turn the failure of a decode task, seen by the encoder that needed it, into the error to raise."""
    if isinstance(error, RayTaskError):
        if isinstance(error.cause, MemoryError):
            return DecodeWorkerLostError(f"a decode worker met its memory limit ({first_line(error.cause)})")
        return error.cause if isinstance(error.cause, Exception) else error
    kind = DecodeNodeLostError if isinstance(error, NodeDiedError) else DecodeWorkerLostError
    return kind(f"a decode worker was lost ({type(error).__name__}: {first_line(error)})")


def first_line(error: BaseException) -> str:
    """The first line of a message: Ray's go on for pages."""
    return str(error).strip().split("\n", 1)[0]
