# SPDX-License-Identifier: Apache-2.0
"""A package index of the tests' own: listings on one port and files on another one, over TLS, as HTML and as JSON."""

from __future__ import annotations

import json
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from certificates import Pair
from packages import digest_of, metadata_of

JSON = "application/vnd.pypi.simple.v1+json"


class Upstream:
    """Serves the wheels of a folder. requests counts what was asked of it, by path; links: "absolute", to the other port,
    or "relative", "rooted": to files on the index's own."""

    def __init__(self, folder: Path, pair: Pair) -> None:
        self.folder = folder
        self.links = "absolute"
        self.requests: dict[str, int] = {}
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._servers: list[ThreadingHTTPServer] = []
        self.ports = [0, 0]
        self.start()

    def start(self) -> None:
        """Comes back, at the same ports."""
        for number in range(2):
            server = ThreadingHTTPServer(("127.0.0.1", self.ports[number]), self._handler(), bind_and_activate=False)
            server.allow_reuse_address = True
            server.server_bind()
            server.server_activate()
            server.socket = self._context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            self.ports[number] = server.server_address[1]
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            self._servers.append(server)

    def stop(self) -> None:
        """Goes away: nothing listens any more."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers = []

    @property
    def index(self) -> str:
        """The index's URL."""
        return f"https://localhost:{self.ports[0]}/some/simple"

    @property
    def files(self) -> str:
        """Where its files lie."""
        return f"https://localhost:{self.ports[1]}"

    def count(self, part: str) -> int:
        """How often something with this in its path was asked for."""
        return sum(times for path, times in self.requests.items() if part in path)

    def _link(self, path: Path) -> str:
        return {"absolute": f"{self.files}/pool/ab%2Bcd/{path.name}", "relative": f"../../pool/{path.name}",
                "rooted": f"/some/pool/{path.name}"}[self.links]

    def _listing(self, project: str, wants_json: bool) -> tuple[str, bytes] | None:
        found = [path for path in sorted(self.folder.iterdir()) if path.name.lower().replace("_", "-")
                 .startswith(f"{project}-")]
        if not found and project != "pip":
            return None
        found = found or sorted(self.folder.iterdir())[:1]
        if wants_json:
            files = [{"filename": path.name, "url": self._link(path), "hashes": {"sha256": digest_of(path)},
                      "core-metadata": True} for path in found]
            return JSON, json.dumps({"meta": {"api-version": "1.0"}, "name": project, "files": files}).encode()
        links = "".join(f'<a href="{self._link(path)}#sha256={digest_of(path)}" data-core-metadata="true">{path.name}</a>\n'
                        for path in found)
        return "text/html", f"<!DOCTYPE html><html><body>\n{links}</body></html>\n".encode()

    def answer(self, path: str, accept: str) -> tuple[str, bytes] | None:
        """Content type and body, or None."""
        if match := re.fullmatch(r"/some/simple/([a-z0-9-]+)/", path):
            return self._listing(match[1], JSON in accept)
        if match := re.fullmatch(r"(?:/some)?/pool/(?:ab%2Bcd/)?([A-Za-z0-9._+-]+?)(\.metadata)?", path):
            file = self.folder / match[1]
            if file.exists():
                return "application/octet-stream", metadata_of(file) if match[2] else file.read_bytes()
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                upstream.requests[self.path] = upstream.requests.get(self.path, 0) + 1
                upstream.headers.append(dict(self.headers))
                found = upstream.answer(self.path, self.headers.get("Accept", "")) if upstream.status == 200 else None
                kind, body = found or ("text/plain", b"nothing\n")
                self.send_response(200 if found else (404 if upstream.status == 200 else upstream.status))
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("Vary", "Accept")
                self.end_headers()
                self.wfile.write(body)

        return Handler
