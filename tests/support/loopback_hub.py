"""A hub on this machine, which answers the hub's own client over HTTP from folders.

Large files go the way of Git LFS, as where the client lacks `hf_xet`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_of_the_tests"
LARGE = ".safetensors"
COMMIT = "c" * 40  # every revision is this commit


class LoopbackHub:
    """Repositories as folders `root/models/user/name` and `root/datasets/user/name`.

    Attributes:
        asked: method and path of every request so far.
        private: for each repository that was made, whether its owner alone sees it.
        committed: the branch of each commit.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.private: dict[str, bool] = {}
        self.committed: list[str] = []
        self.branches = {"main"}
        self.objects: dict[str, bytes] = {}  # large files by their SHA-256
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def folder(self, repository: str, kind: str = "models") -> Path:
        return self.root / kind / repository

    def uploads(self) -> list[str]:
        return [line for line in self.asked if line.startswith("PUT")]


@contextmanager
def serve_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """Serve a hub, and point this process's client to it, with a token and an empty cache."""
    with LoopbackHub(root / "hub") as hub:
        constants = "huggingface_hub.constants."
        monkeypatch.setattr(constants + "ENDPOINT", hub.address)
        monkeypatch.setattr(
            constants + "HUGGINGFACE_CO_URL_TEMPLATE",
            hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr(constants + "HF_HUB_CACHE", str(root / "cache"))
        monkeypatch.setattr(constants + "HF_HUB_OFFLINE", False)  # whatever the tests are run with
        monkeypatch.setattr(constants + "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = path.split("/")
        if parts[0] == "lfs":
            assert hashlib.sha256(body).hexdigest() == parts[1]
            self.hub.objects[parts[1]] = body
            self._send({})
        elif path == "api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send({"error": "Invalid credentials"}, status=401)
        elif path == "api/repos/create":
            self._create(json.loads(body))
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._send(self._where_to_upload(json.loads(body)))
        elif parts[0] == "api":
            self._repository(
                kind=parts[1], name="/".join(parts[2:4]), what=parts[4:] or ["revision", "main"], body=body
            )
        else:
            kind = "datasets" if parts[0] == "datasets" else "models"
            owner, name, _, _, *file = parts[kind == "datasets" :]
            self._file(self.hub.folder(f"{owner}/{name}", kind) / "/".join(file))

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'user'}/{asked['name']}"
        is_new = name not in self.hub.private
        if is_new:
            private = asked.get("visibility") == "private" or asked.get("private") is True
            self.hub.private[name] = private
            self.hub.folder(name).mkdir(parents=True)
        self._send({"url": f"{self.hub.address}/{name}"}, status=200 if is_new else 409)

    def _where_to_upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{each['oid']}"}}}
            for each in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _repository(self, *, kind: str, name: str, what: list[str], body: bytes) -> None:
        folder = self.hub.folder(name, kind)
        if not folder.is_dir():
            self._send({"error": "no such repository"}, status=404, code="RepoNotFound")
        elif what[0] == "branch":
            self.hub.branches.add(what[1])
            self._send({})
        elif what[1] not in {*self.hub.branches, COMMIT}:
            self._send({"error": "no such revision"}, status=404, code="RevisionNotFound")
        elif what[0] == "preupload":
            files = [
                {"path": file["path"], "shouldIgnore": False}
                | {"uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular"}
                for file in json.loads(body)["files"]
            ]
            self._send({"files": files})
        elif what[0] == "commit":
            self._commit(name, folder, body, branch=what[1])
        else:
            paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            described = [
                {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size}
                | {"oid": hashlib.sha256(path.read_bytes()).hexdigest()}
                for path in paths
            ]
            about = {
                "id": name,
                "sha": COMMIT,
                "private": self.hub.private.get(name, False),
                "siblings": [{"rfilename": each["path"]} for each in described],
            }
            self._send(described if what[0] == "tree" else about)

    def _commit(self, name: str, folder: Path, body: bytes, *, branch: str) -> None:
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "header":
                continue
            value = entry["value"]
            is_large = entry["key"] == "lfsFile"
            content = self.hub.objects[value["oid"]] if is_large else base64.b64decode(value["content"])
            (folder / value["path"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / value["path"]).write_bytes(content)
        self.hub.committed.append(branch)
        self._send({"commitUrl": f"{self.hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def _file(self, path: Path) -> None:
        if not path.is_file():
            self._send({"error": "no such file"}, status=404, code="EntryNotFound")
            return
        content = path.read_bytes()
        self._send(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)

    def _send(self, content: Any, *, status: int = 200, code: str = "", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X_Error_Code": code, **headers}.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
