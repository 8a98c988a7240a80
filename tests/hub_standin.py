"""A Hugging Face hub for tests: one directory behind a loopback address.

`root/NAMESPACE/NAME/REVISION/...` holds the files of a repository's branch, so a test
publishes a checkpoint by writing files and checks an upload by reading them. The server
implements what downloads, listings and `upload_folder` need of the hub's protocol
(small files in the commit, weights by LFS).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import json
import shutil
import threading
import urllib.parse
from pathlib import Path
from typing import NamedTuple

LFS_SUFFIXES = (".safetensors", ".bin")


class Request(NamedTuple):
    """One logged request."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case


class HubStandIn:
    """The server; a context manager.

    Args:
        root: Directory of the repositories, created if missing.

    Attributes:
        url: The server's address, for HF_ENDPOINT.
        requests: All requests, in order.
        tokens: Repository -> the only token that may read or write it.
        gated: Repositories whose files nobody may read.
        status: If set, the answer to every request, such as 503.

    Example:
        >>> with HubStandIn(tmp_path) as hub:
        ...     hub.write("toy/bark", "config.json", b"{}")
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self.requests: list[Request] = []
        self.tokens: dict[str, str] = {}
        self.gated: set[str] = set()
        self.status: int | None = None
        self.lfs_objects: dict[str, bytes] = {}
        self.commit_messages: list[str] = []
        self._drops: list[int] = []
        handler = functools.partial(_Handler, self)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        serve = functools.partial(self._server.serve_forever, poll_interval=0.01)
        self._thread = threading.Thread(target=serve, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubStandIn:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def stop(self) -> None:
        """Shuts the server down; may be called twice."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def use(self, monkeypatch, cache_dir: Path) -> None:
        """Points this process's hub client at the server and at `cache_dir`."""
        from huggingface_hub import constants

        # The login of whoever runs the tests must not reach them.
        monkeypatch.delenv("HF_TOKEN", raising=False)
        values = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": (
                self.url + "/{repo_id}/resolve/{revision}/{filename}"
            ),
            "HF_HUB_CACHE": str(cache_dir),
            "HF_TOKEN_PATH": str(cache_dir / "no-token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)

    def environment(self, home: Path) -> dict[str, str]:
        """Environment variables that point another process at the server."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def branch(self, repo: str, revision: str = "main") -> Path:
        """The directory of a branch."""
        path = (self.root / repo / revision).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ValueError(f"{repo}@{revision} is outside {self.root}")
        return path

    def write(self, repo: str, name: str, content: bytes, revision: str = "main"):
        """Publishes one file."""
        path = self.branch(repo, revision) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def drop(self, num_bytes: int, times: int = 1) -> None:
        """Makes the next `times` downloads break off after `num_bytes`."""
        self._drops = [num_bytes] * times

    def next_drop(self) -> int | None:
        """The number of bytes after which the next download breaks off, or None."""
        return self._drops.pop() if self._drops else None

    def downloads(self, name: str) -> list[Request]:
        """The GET requests for one file."""
        return [
            request
            for request in self.requests
            if request.method == "GET" and request.path.endswith("/" + name)
        ]

    def files(self, repo: str, revision: str = "main") -> dict[str, Path]:
        """Name -> path of the files of a branch."""
        top = self.branch(repo, revision)
        paths = (path for path in sorted(top.rglob("*")) if path.is_file())
        return {path.relative_to(top).as_posix(): path for path in paths}

    def commit(self, repo: str, revision: str = "main") -> str:
        """The branch's commit hash, which depends on its content."""
        digest = hashlib.sha1(f"{repo}@{revision}".encode())
        for name, path in self.files(repo, revision).items():
            digest.update(name.encode() + _sha256(path).encode())
        return digest.hexdigest()

    def find_revision(self, repo: str, revision: str) -> str | None:
        """The branch that `revision` (a branch or its newest commit) names."""
        for branch in sorted((self.root / repo).iterdir()):
            if revision in (branch.name, self.commit(repo, branch.name)):
                return branch.name
        return None


def _sha256(path: Path) -> str:
    facts = path.stat()
    return _sha256_of_state(path, facts.st_mtime_ns, facts.st_size)


@functools.cache
def _sha256_of_state(path: Path, *state: int) -> str:
    """Cached per state of a file, since weights may be gigabytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request. HTTP/1.0: each answer closes its connection."""

    def __init__(self, hub: HubStandIn, *args):
        self.hub = hub
        super().__init__(*args)

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    do_GET = do_POST = do_PUT = do_HEAD

    def _answer(self):
        url = urllib.parse.urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.command, self.path, headers))
        body = self._read_body(headers)
        if self.hub.status is not None:
            return self._send(self.hub.status)
        # Revisions such as refs/pr/1 come quoted, so the parts are unquoted last.
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "api":
            self._api(parts[1:], body)
        elif parts[0] == "lfs":
            self._store_object(parts[1], body)
        elif url.path.endswith(".git/info/lfs/objects/batch"):
            self._lfs_batch(json.loads(body))
        elif "resolve" in parts:
            at = parts.index("resolve")
            repo, revision, name = parts[:at], parts[at + 1], parts[at + 2 :]
            self._resolve("/".join(repo), revision, "/".join(name))
        else:
            self._send(404)

    def _read_body(self, headers) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    # --- Answers

    def _send(self, status: int, headers=None, body: bytes = b""):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_json(self, value):
        body = json.dumps(value).encode()
        self._send(200, {"Content-Type": "application/json"}, body)

    def _send_error(self, status: int, code: str, **headers: str):
        self._send(status, {"X-Error-Code": code, "X-Error-Message": code, **headers})

    # --- Reading

    def _find(self, repo: str, revision: str) -> str | None:
        """The branch, or None after an error has been sent."""
        token = self.hub.tokens.get(repo)
        sent = self.headers.get("Authorization")
        if not (self.hub.root / repo).is_dir() or (token and sent is None):
            # Like the hub, does not reveal which of the two it is.
            self._send_error(401, "RepoNotFound")
        elif token and sent != f"Bearer {token}":
            message = "Invalid credentials in Authorization header"
            self._send(401, {"X-Error-Message": message})
        else:
            branch = self.hub.find_revision(repo, revision)
            if branch is None:
                self._send_error(404, "RevisionNotFound")
            return branch
        return None

    def _resolve(self, repo: str, revision: str, name: str):
        branch = self._find(repo, revision)
        if branch is None:
            return
        commit = {"X-Repo-Commit": self.hub.commit(repo, branch)}
        path = self.hub.files(repo, branch).get(name)
        if repo in self.hub.gated:
            self._send_error(403, "GatedRepo", **commit)
        elif path is None:
            self._send_error(404, "EntryNotFound", **commit)
        else:
            self._send_file(path, commit)

    def _send_file(self, path: Path, headers: dict[str, str]):
        start, size = 0, path.stat().st_size
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{_sha256(path)}"')
        self.send_header("Content-Length", str(size - start))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            num_bytes = self.hub.next_drop()
            with open(path, "rb") as file:
                file.seek(start)
                if num_bytes is None:
                    shutil.copyfileobj(file, self.wfile, 2**20)
                else:
                    self.wfile.write(file.read(num_bytes))

    # --- The API

    def _api(self, parts: list[str], body: bytes):
        if parts == ["repos", "create"]:
            return self._create(json.loads(body))
        if parts == ["validate-yaml"]:
            return self._send_json({"errors": [], "warnings": []})
        if parts[0] != "models":
            return self._send(404)
        repo = "/".join(parts[1:3])
        verb, revision = parts[3:5] or ("revision", "main")
        if verb == "branch":
            return self._make_branch(repo, revision)
        branch = self._find(repo, revision)
        if branch is None:
            return None
        answers = {
            "revision": lambda: self._info(repo, branch),
            "tree": lambda: self._tree(repo, branch),
            "preupload": lambda: self._preupload(json.loads(body)),
            "commit": lambda: self._commit(repo, branch, body),
        }
        return self._send_json(answers[verb]())

    def _create(self, wanted):
        repo = "/".join([wanted.get("organization") or "me", wanted["name"]])
        url = f"{self.hub.url}/{repo}"
        token = self.hub.tokens.get(repo)
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            return self._send_error(403, "Forbidden")
        exists = (self.hub.root / repo).is_dir()
        self.hub.branch(repo).mkdir(parents=True, exist_ok=True)
        body = json.dumps({"url": url, "id": repo}).encode()
        return self._send(409 if exists else 200, {}, body)

    def _make_branch(self, repo: str, name: str):
        if self.hub.branch(repo, name).exists():
            return self._send(409)
        shutil.copytree(self.hub.branch(repo), self.hub.branch(repo, name))
        return self._send_json({})

    def _info(self, repo: str, branch: str):
        names = self.hub.files(repo, branch)
        return {
            "id": repo,
            "modelId": repo,
            "private": repo in self.hub.tokens,
            "tags": [],
            "sha": self.hub.commit(repo, branch),
            "siblings": [{"rfilename": name} for name in names],
        }

    def _tree(self, repo: str, branch: str):
        return [
            {
                "type": "file",
                "path": name,
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for name, path in self.hub.files(repo, branch).items()
        ]

    def _preupload(self, wanted):
        return {
            "files": [
                {
                    "path": file["path"],
                    "shouldIgnore": False,
                    "uploadMode": (
                        "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular"
                    ),
                }
                for file in wanted["files"]
            ]
        }

    def _lfs_batch(self, wanted):
        objects = []
        for item in wanted["objects"]:
            upload = {"href": f"{self.hub.url}/lfs/{item['oid']}"}
            objects.append({**item, "actions": {"upload": upload}})
        self._send_json({"transfer": "basic", "objects": objects})

    def _store_object(self, oid: str, content: bytes):
        if hashlib.sha256(content).hexdigest() != oid:
            return self._send(400)
        self.hub.lfs_objects[oid] = content
        return self._send_json({})

    def _commit(self, repo: str, branch: str, body: bytes):
        for line in body.splitlines():
            key, value = json.loads(line).values()
            if key == "header":
                self.hub.commit_messages.append(value["summary"])
            elif key == "file":
                content = base64.b64decode(value["content"])
                self.hub.write(repo, value["path"], content, branch)
            elif key == "lfsFile":
                content = self.hub.lfs_objects[value["oid"]]
                self.hub.write(repo, value["path"], content, branch)
        commit = self.hub.commit(repo, branch)
        return {
            "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}",
            "commitOid": commit,
            "pullRequestUrl": None,
        }
