from typing import Any

import pytest

from tokenizer_jobs import executor_choice
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.executor_choice import uses_ray

MINUTE = 60.0
ADDRESS_KEYS = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR")


def job(**runtime: Any) -> JobConfig:
    return JobConfig.model_validate({"output": "/out", "selection": {"source": {"kind": "demo"}}, "runtime": runtime})


@pytest.mark.parametrize(
    ("cpus", "has_gpu", "device", "minutes", "expected"),
    [
        (1, False, "auto", 1000, False),
        (2, False, "auto", 119, False),
        (2, False, "auto", 121, True),
        (4, False, "cpu", 119, False),
        (5, False, "auto", 9, False),
        (5, False, "auto", 11, True),
        (2, True, "auto", 9, False),
        (2, True, "auto", 11, True),
        (2, True, "cpu", 11, False),
        (2, False, "cuda", 11, True),
    ],
)
def test_ray_is_taken_where_it_pays(
    cpus: int, has_gpu: bool, device: str, minutes: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor_choice, "available_cpus", lambda: cpus)
    monkeypatch.setattr(executor_choice, "has_nvidia_device", lambda: has_gpu)
    for key in ADDRESS_KEYS:
        monkeypatch.delenv(key, raising=False)
    assert uses_ray(job(device=device), seconds_left=minutes * MINUTE) is expected


@pytest.mark.parametrize("key", ADDRESS_KEYS)
def test_a_cluster_that_is_named_is_taken(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(key, "{}")
    assert uses_ray(job(), seconds_left=1.0)
    assert not uses_ray(job(executor="inline"), seconds_left=1.0)
