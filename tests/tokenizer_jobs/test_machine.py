import gc
import weakref

from tokenizer_jobs.machine import uncollected


class Knot:
    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_left_alone_inside_and_no_longer() -> None:
    knot = weakref.ref(Knot())
    with uncollected():
        assert not gc.isenabled()
        assert knot() is not None
    assert gc.isenabled()
    gc.collect()
    assert knot() is None
