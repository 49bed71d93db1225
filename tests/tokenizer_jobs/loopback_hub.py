"""A Hugging Face hub on this machine: the requests with which its client makes, fills and reads data sets.

What is committed lies in a folder for each data set, as a clone would. Large files come by Git LFS: they are announced,
uploaded by their sha256, and a commit may name only those that came whole.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["TOKEN", "LoopbackHub", "serve_hub"]

TOKEN = "hf_loopback"

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


class LoopbackHub:
    """Data sets by `owner/name`, and the answers to requests for them.

    Args:
        folder: Where data sets are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self.commits: list[str] = []
        """Their messages, in order."""
        self.failing: dict[str, int] = {}
        """Status of requests whose path holds a word, to rehearse failures."""
        self._folder = folder
        self._large: dict[str, bytes] = {}

    @property
    def datasets(self) -> list[str]:
        """Names of all data sets there are."""
        return sorted(str(path.relative_to(self._folder)) for path in self._folder.glob("*/*"))

    def folder_of(self, name: str) -> Path:
        """Where the files of a data set are."""
        return self._folder / name

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Answer one request."""
        path = unquote(urlsplit(target).path)
        for word, status in self.failing.items():
            if word in path:
                return _refusal(status, "", "as asked")
        if path.startswith("/lfs/"):  # its address is its licence
            return self._take_large(path.removeprefix("/lfs/"), body)
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return _refusal(401, "", "Invalid credentials in Authorization header")
        match path.strip("/").split("/"):
            case ["api", "whoami-v2"]:
                return _json({"type": "user", "name": "me"})
            case ["api", "repos", "create"]:
                return self._create(json.loads(body))
            case ["api", "datasets", owner, name, *rest] if self.folder_of(f"{owner}/{name}").is_dir():
                return self._of_dataset(f"{owner}/{name}", rest, body, parse_qs(urlsplit(target).query))
            case ["datasets", owner, name, "resolve", _, *rest]:
                return self._file(self.folder_of(f"{owner}/{name}") / "/".join(rest))
            case ["datasets", _, _, "info", "lfs", "objects", "batch"]:
                return self._announce(json.loads(body))
            case ["api", "datasets", *_]:
                return _refusal(404, "RepoNotFound", "Repository not found")
        return _refusal(404, "", f"{method} {path} is not spoken here")

    def _create(self, wanted: dict[str, Any]) -> Answer:
        assert wanted["type"] == "dataset"
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if not name.startswith("me/"):
            return _refusal(403, "", f"You don't have the rights to create a dataset under {name.split('/')[0]}")
        self.folder_of(name).mkdir(parents=True)
        return _json({"url": f"{self.url}/datasets/{name}", "name": name})

    def _of_dataset(self, name: str, rest: list[str], body: bytes, query: dict[str, list[str]]) -> Answer:
        match rest:
            case [] | ["revision", _]:
                return _json({"id": name, "sha": self._revision, "siblings": [], "tags": []})
            case ["preupload", _]:
                files = json.loads(body)["files"]
                return _json({"files": [_upload_mode(file["path"]) for file in files]})
            case ["commit", _]:
                return self._commit(name, [json.loads(line) for line in body.splitlines()])
            case ["tree", _, *below]:
                folder = self.folder_of(name) / "/".join(below)
                if not folder.is_dir():
                    return _refusal(404, "EntryNotFound", "Entry not found")
                found = sorted(folder.rglob("*") if query.get("recursive") == ["True"] else folder.iterdir())
                return _json([_entry(path, self.folder_of(name)) for path in found])
            case ["paths-info", _]:
                asked = parse_qs(body.decode()).get("paths", [])
                found = [self.folder_of(name) / path for path in asked]
                return _json([_entry(path, self.folder_of(name)) for path in found if path.exists()])
        return _refusal(404, "", f"/{'/'.join(rest)} is not spoken here")

    @property
    def _revision(self) -> str:
        return hashlib.sha1(str(len(self.commits)).encode(), usedforsecurity=False).hexdigest()

    def _announce(self, batch: dict[str, Any]) -> Answer:
        objects = [
            {**large, "actions": {"upload": {"href": f"{self.url}/lfs/{large['oid']}"}}} for large in batch["objects"]
        ]
        return _json({"transfer": "basic", "objects": objects})

    def _take_large(self, oid: str, body: bytes) -> Answer:
        if hashlib.sha256(body).hexdigest() != oid:
            return _refusal(422, "", "the content is not that of its name")
        self._large[oid] = body
        return 200, {}, b""

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> Answer:
        folder, contents = self.folder_of(name), dict[str, bytes | None]()
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                contents[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if len(self._large.get(value["oid"], b"")) != value["size"]:
                    return _refusal(400, "", f"{value['path']} was never uploaded")
                contents[value["path"]] = self._large[value["oid"]]
            else:
                assert line["key"] == "deletedFile", line
                contents[value["path"]] = None
        for path, content in contents.items():
            if content is None:
                (folder / path).unlink()
                continue
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        self.commits.append(lines[0]["value"]["summary"])
        return _json({"commitUrl": f"{self.url}/datasets/{name}/commit/{self._revision}", "commitOid": self._revision})

    def _file(self, path: Path) -> Answer:
        if not path.is_file():
            return _refusal(404, "EntryNotFound", "Entry not found")
        content = path.read_bytes()
        return 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": self._revision}, content


@contextmanager
def serve_hub(folder: Path) -> Iterator[LoopbackHub]:
    """A hub that answers at its `url` until the end of the block."""
    hub = LoopbackHub(folder)

    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answer, content = hub.answer(self.command, self.path, headers, body)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **answer}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = _reply  # noqa: N815  # the server looks for these names

        def log_message(self, *_: object) -> None:
            """Say nothing of requests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Requests) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


def _json(content: Any) -> Answer:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def _refusal(status: int, code: str, message: str) -> Answer:
    headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
    return status, headers, json.dumps({"error": message}).encode()


def _upload_mode(path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith(".parquet") else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}


def _entry(path: Path, root: Path) -> dict[str, Any]:
    kind = "directory" if path.is_dir() else "file"
    size = 0 if path.is_dir() else path.stat().st_size
    oid = hashlib.sha1(str(path).encode(), usedforsecurity=False).hexdigest()
    return {"type": kind, "path": str(path.relative_to(root)), "size": size, "oid": oid}
