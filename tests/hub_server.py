"""A hub in a thread: directories served the way the hub serves repositories, for tests of what is asked of it.

It speaks the part of the protocol that transformers and huggingface_hub use to read, list and upload models, with
large files by LFS, and can misbehave on request.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of_the_tests"
LARGE = (".safetensors",)


@dataclass
class Hub:
    """What the server has and how it behaves.

    Attributes:
        repos: directory by `org/name`, or `org/name@revision` for another revision than main.
        root: where repositories are made that somebody creates; None: nobody may.
        private: names that want a token even for reading.
        collections: names of repositories by a collection's slug.
        breaking: part of an address, and how many more answers about it end in the middle.
        corrupt: whether uploaded files arrive changed.
        altered: names of files of which the last byte is another one when they are downloaded.
        asked: requests, as they come.
    """

    repos: dict[str, Path]
    root: Path | None = None
    private: set[str] = field(default_factory=set)
    collections: dict[str, list[str]] = field(default_factory=dict)
    breaking: dict[str, int] = field(default_factory=dict)
    corrupt: bool = False
    altered: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    commits: dict[str, int] = field(default_factory=dict)

    def breaks(self, path: str) -> bool:
        """Whether this answer is one that ends in the middle."""
        for part, times in self.breaking.items():
            if part in path and times:
                self.breaking[part] -= 1
                return True
        return False

    def commit(self, name: str) -> str:
        """The newest commit of a repository."""
        return hashlib.sha1(f"{name} {self.commits.get(name, 0)}".encode()).hexdigest()

    def at(self, name: str, revision: str) -> str:
        """The key in `repos` of a repository at a branch or commit; main where it has no other."""
        keys = [key for key in self.repos if key == f"{name}@{revision}" or self.commit(key) == revision]
        return next((key for key in keys if key.split("@")[0] == name), name)

    def make(self, name: str) -> None:
        """Create a repository, if it is not there."""
        assert self.root is not None
        if name not in self.repos:
            self.repos[name] = self.root / name.replace("/", "--")
            self.repos[name].mkdir(parents=True)

    def info(self, name: str) -> dict[str, Any]:
        """A repository as the API describes it."""
        files = [path.relative_to(self.repos[name]).as_posix() for path in _files(self.repos[name])]
        card = _card(self.repos[name])
        return {
            "id": name,
            "modelId": name,
            "sha": self.commit(name),
            "siblings": [{"rfilename": file} for file in files],
            "private": name in self.private,
            "tags": card.get("tags", []),
            "cardData": card,
        }


@contextmanager
def serve(repositories: dict[str, Path] | Hub) -> Iterator[tuple[str, list[str]]]:
    """Serve `{"org/name": directory}`, or a [`Hub`]; gives the address and the list of requests, which grows."""
    served = repositories if isinstance(repositories, Hub) else Hub(repositories)

    class Handler(_Handler):
        hub = served

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", served.asked
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    # ------------------------------------------------------------------ reading

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        address = urlsplit(self.path)
        parts = unquote(address.path).strip("/").split("/")
        if parts == ["api", "models"]:
            self._list({key: values[0] for key, values in parse_qs(address.query).items()})
            return
        if parts[:2] == ["api", "collections"]:
            self._collection("/".join(parts[2:]))
            return
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        revision = parts[5] if is_api and len(parts) > 5 else parts[3] if not is_api and len(parts) > 3 else "main"
        name = self.hub.at(name, revision)
        if not self._may_read(name):
            self._answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif name not in self.hub.repos:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif is_api and parts[4:5] == ["tree"]:
            self._json([_entry(self.hub.repos[name], path) for path in _files(self.hub.repos[name])])
        elif is_api:
            self._json(self.hub.info(name))
        else:
            self._file(name, "/".join(parts[4:]))

    do_HEAD = do_GET

    def _list(self, query: dict[str, str]) -> None:
        names = [name for name in self.hub.repos if "@" not in name and self._may_read(name)]
        found = [self.hub.info(name) for name in sorted(names) if name.startswith(f"{query.get('author', '')}/")]
        self._json([model for model in found if query.get("filter", "") in ("", *model["tags"])])

    def _collection(self, slug: str) -> None:
        if slug not in self.hub.collections:
            self._answer(404, b'{"error": "Collection not found"}')
            return
        items = [
            {"_id": str(place), "id": name, "type": "model", "position": place}
            for place, name in enumerate(self.hub.collections[slug])
        ]
        owner = {"_id": "1", "avatarUrl": "", "fullname": "Org", "name": slug.split("/")[0], "type": "org"}
        fields = {"slug": slug, "title": "Objectives", "owner": owner, "items": items, "position": 0, "theme": "blue"}
        self._json(fields | {"lastUpdated": "2026-01-01T00:00:00.000Z", "private": False, "upvotes": 0})

    def _file(self, name: str, filename: str) -> None:
        path = self.hub.repos[name] / filename
        headers = {"X-Repo-Commit": self.hub.commit(name), "Accept-Ranges": "bytes"}
        if not path.is_file():
            self._answer(404, b"", headers | {"X-Error-Code": "EntryNotFound"})
            return
        body, status = path.read_bytes(), 200
        if path.name in self.hub.altered:
            body = body[:-1] + bytes([body[-1] ^ 1])
        headers["ETag"] = f'"{_tag(path)}"'
        start, _, end = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if start:
            last = min(int(end or len(body)), len(body) - 1)
            headers["Content-Range"] = f"bytes {start}-{last}/{len(body)}"
            body, status = body[int(start) : last + 1], 206
        self._answer(status, body, headers)

    # ------------------------------------------------------------------ writing

    def do_POST(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        body = self._body()
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif not self._has_token():
            self._answer(401, b'{"error": "Invalid username or password."}')
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(body))
        elif parts[:2] == ["api", "models"]:
            name, action, revision = "/".join(parts[2:4]), parts[4], parts[5]
            {"preupload": self._preupload, "commit": self._commit, "branch": self._branch}[action](name, revision, body)
        elif parts[1].endswith(".git"):
            self._lfs_batch(json.loads(body))
        else:
            self._lfs_verify(json.loads(body))

    def do_PUT(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        if self.hub.breaks(self.path):
            self.close_connection = True
            self.connection.close()
            return
        body = self._body()
        self.hub.blobs[self.path.rsplit("/", 1)[1]] = body[::-1] if self.hub.corrupt else body
        self._answer(200, b"")

    def _create(self, fields: dict[str, Any]) -> None:
        name = f"{fields.get('organization') or 'me'}/{fields['name']}"
        known = name in self.hub.repos
        if fields.get("visibility") == "private" or fields.get("private"):
            self.hub.private.add(name)
        self.hub.make(name)
        self._json({"url": f"{self._address()}/{name}", "name": name, "id": "1"}, 409 if known else 200)

    def _branch(self, name: str, revision: str, body: bytes) -> None:
        known = f"{name}@{revision}" in self.hub.repos
        self.hub.make(f"{name}@{revision}")
        self._json({}, 409 if known else 200)

    def _preupload(self, name: str, revision: str, body: bytes) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        known = revision == "main" or f"{name}@{revision}" in self.hub.repos
        self._json({"files": files}) if known else self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})

    def _lfs_batch(self, fields: dict[str, Any]) -> None:
        address = self._address()
        objects = [
            {
                "oid": item["oid"],
                "size": item["size"],
                "actions": {
                    "upload": {"href": f"{address}/lfs/{item['oid']}"},
                    "verify": {"href": f"{address}/lfs/verify"},
                },
            }
            for item in fields["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _lfs_verify(self, fields: dict[str, Any]) -> None:
        found = hashlib.sha256(self.hub.blobs.get(fields["oid"], b"")).hexdigest()
        if found == fields["oid"]:
            self._json({})
        else:
            self._answer(422, b'{"error": "The uploaded file has another sha256 than was announced."}')

    def _commit(self, name: str, revision: str, body: bytes) -> None:
        target = name if revision == "main" else f"{name}@{revision}"
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                content = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.hub.blobs[value["oid"]]
            else:
                continue
            path = self.hub.repos[target] / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.hub.commits[target] = self.hub.commits.get(target, 0) + 1
        commit = self.hub.commit(target)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self._address()}/{name}/commit/{commit}"})

    # ------------------------------------------------------------------ both

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _may_read(self, name: str) -> bool:
        return name.split("@")[0] not in self.hub.private or self._has_token()

    def _address(self) -> str:
        return f"http://{self.headers['Host']}"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode())

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.command == "GET" and self.hub.breaks(self.path):
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    return {
        "type": "file",
        "path": path.relative_to(folder).as_posix(),
        "size": path.stat().st_size,
        "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
    }


def _card(folder: Path) -> dict[str, Any]:
    import yaml

    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}


def _tag(path: Path) -> str:
    """As the hub names content: sha256 of what LFS holds, else a sha1."""
    digest = hashlib.sha256 if path.name.endswith(LARGE) else hashlib.sha1
    return digest(path.read_bytes()).hexdigest()
