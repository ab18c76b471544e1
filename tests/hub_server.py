"""A hub in a thread: directories served the way the hub serves repositories, for tests of what is asked of it."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def serve(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """Serve `{"org/name": directory}`; gives the address and the list of requests, which grows."""
    asked: list[str] = []

    class Handler(_Handler):
        repos = repositories
        requests = asked

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    repos: dict[str, Path]
    requests: list[str]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.requests.append(f"{self.command} {self.path}")
        parts = self.path.split("?")[0].strip("/").split("/")
        is_api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if is_api else parts[:2])
        if name not in self.repos:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif is_api and parts[4:5] == ["tree"]:
            files = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": _tag(f)} for f in self._files(name)
            ]
            self._answer(200, json.dumps(files).encode())
        elif is_api:
            siblings = [{"rfilename": file.name} for file in self._files(name)]
            fields = {
                "id": name,
                "modelId": name,
                "sha": _commit(name),
                "siblings": siblings,
                "private": False,
                "tags": [],
            }
            self._answer(200, json.dumps(fields).encode())
        else:
            self._file(name, "/".join(parts[4:]))

    do_HEAD = do_GET

    def _files(self, name: str) -> list[Path]:
        return [path for path in self.repos[name].iterdir() if path.is_file()]

    def _file(self, name: str, filename: str) -> None:
        path = self.repos[name] / filename
        commit = {"X-Repo-Commit": _commit(name)}
        if path.is_file():
            self._answer(200, path.read_bytes(), commit | {"ETag": f'"{_tag(path)}"'})
        else:
            self._answer(404, b"", commit | {"X-Error-Code": "EntryNotFound"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


def _commit(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


def _tag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
