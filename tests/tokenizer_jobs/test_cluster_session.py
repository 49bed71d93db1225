import os
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import ray
import ray._private.worker as ray_worker
from ray._private.utils import check_version_info
from ray.exceptions import WorkerCrashedError

from tokenizer_jobs.cluster import session
from tokenizer_jobs.cluster.reach import absolute_paths, check_reach
from tokenizer_jobs.cluster.session import connected, live_nodes, probe, resolve_address
from tokenizer_jobs.config import Runtime
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.source_config import DemoSource, FilesSource


@pytest.mark.parametrize(
    ("ray_address", "environment", "address"),
    [
        ("auto", {}, None),
        ("auto", {"RAY_ADDRESS": "10.0.0.1:6379"}, "10.0.0.1:6379"),
        ("auto", {"RAY_ADDRESS": "local"}, None),
        ("auto", {"RAY_ADDRESS": ""}, None),
        ("local", {"RAY_ADDRESS": "10.0.0.1:6379"}, None),
        ("head:6379", {"RAY_ADDRESS": "10.0.0.1:6379"}, "head:6379"),
        ("[::1]:6379", {}, "[::1]:6379"),
    ],
)
def test_an_explicit_address_comes_before_the_environment_before_a_private_ray(
    ray_address: str, environment: dict[str, str], address: str | None
) -> None:
    assert resolve_address(ray_address, environment=environment) == address


@pytest.mark.parametrize(
    ("ray_address", "environment", "message"),
    [
        ("head", {}, "runtime.ray_address = 'head' does not name a cluster; expected host:port"),
        ("http://head:8265", {}, "tokenizer-jobs submit"),
        ("ray://head:10001", {}, "does not name a cluster"),
        # Ray takes this for the newest cluster that left a file behind, which may be anybody's, or gone.
        ("auto", {"RAY_ADDRESS": "auto"}, "RAY_ADDRESS = 'auto' does not name a cluster"),
    ],
)
def test_what_names_no_cluster_is_refused(ray_address: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_address(ray_address, environment=environment)


def test_an_address_where_nothing_listens_is_refused_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"no Ray cluster answers at {address}"):
            probe(address)


def test_an_address_that_accepts_and_says_nothing_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PROBE_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConfigError, match="did not answer as a Ray cluster within 2 s"):
            probe(address)


def test_a_refusal_for_other_versions_names_both() -> None:
    mine = {"ray_version": "2.59.0", "python_version": "3.11.2"}
    with pytest.raises(RuntimeError) as caught:
        check_version_info(mine, "node 192.0.2.2")
    message = session._refusal(str(caught.value))
    assert "Ray: 2.59.0" in message
    assert f"Ray: {ray.__version__}" in message


def test_a_refusal_for_want_of_a_token_says_how_to_give_it() -> None:
    answer = "ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: Authentication token is missing"
    assert "RAY_AUTH_MODE=token" in session._refusal(answer)


@pytest.mark.usefixtures("ray_cluster")
def test_a_process_that_is_connected_stays_with_its_cluster() -> None:
    with connected(Runtime()) as cluster:
        assert "this process was connected to" in cluster
        assert [node.cpus for node in live_nodes()] == [2]
    assert live_nodes(), "the connection is not ours to end"
    with pytest.raises(ConfigError, match=r"call ray.shutdown\(\) first"), connected(Runtime(ray_address="10.0.0.1:1")):
        pass


def test_the_handler_of_sigterm_is_given_back() -> None:
    def ours(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with session._own_signal_handler():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as `ray.init` does with one of its own
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_environment_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZER_JOBS_OTHER", "2")
    before = dict(os.environ)
    with session._environment({"RAY_AUTH_MODE": "token", "TOKENIZER_JOBS_TEST": "1", "TOKENIZER_JOBS_OTHER": None}):
        assert os.environ["TOKENIZER_JOBS_TEST"] == "1"
        assert "TOKENIZER_JOBS_OTHER" not in os.environ
    assert dict(os.environ) == before


def test_an_output_that_a_node_does_not_see_is_refused_and_not_made(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(ConfigError, match="is not on every node"):
        check_reach(str(output), paths=())
    assert not output.exists()
    output.mkdir()
    with pytest.raises(ConfigError, match="is not on every node"):
        check_reach(str(output), paths=())
    (output / "recipe.json").touch()
    check_reach(str(output), paths=())


def test_a_source_that_a_node_does_not_see_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").touch()
    with pytest.raises(ConfigError, match=r"audio is not on every node; .*mounts at the same place, or a URL"):
        check_reach(str(tmp_path), paths=[str(tmp_path / "audio")])


def test_only_local_paths_of_a_source_are_looked_for_and_without_globs() -> None:
    source = FilesSource(paths=("/data/audio", "/data/*/x/*.wav", "s3://bucket/audio", "/data/b/clip-?.wav"))
    assert absolute_paths(source) == ("/data/audio", "/data", "/data/b")
    assert absolute_paths(DemoSource()) == ()


def test_the_home_folder_and_file_urls_are_looked_for_as_the_source_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    source = FilesSource(paths=("~/audio", "~/clips/*.wav", "file:///data/audio"))
    assert absolute_paths(source) == (f"{tmp_path}/audio", f"{tmp_path}/clips", "/data/audio")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.json").touch()
    check_reach("~/out", paths=())
    with pytest.raises(ConfigError, match="is not on every node"):
        check_reach(f"file://{tmp_path}/none", paths=())
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_ray_itself_prints_nothing_of_processes_that_died(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What it would print names no unit; the driver says which unit lost its worker."""
    arrived, printing = threading.Event(), ray_worker.print_to_stdstream

    def watched(told: dict[str, Any], **options: Any) -> None:
        printing(told, **options)
        arrived.set()

    monkeypatch.setattr(ray_worker, "print_to_stdstream", watched)
    dies = ray.remote(num_cpus=0.25, max_retries=0)(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(WorkerCrashedError):
        ray.get(dies.remote(), timeout=60)
    assert arrived.wait(120), "Ray told the driver nothing, so that nothing was proven"
    assert "died" not in "".join(capfd.readouterr())
