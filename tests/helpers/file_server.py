"""A file server on this machine that can be made to fail."""

import hashlib
import http.server
import threading

import pytest

from edgekd.data.fetch import RemoteFile


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, records the requests, and closes after `limit` bytes of a response."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.limit, self.ranges = {}, [], None, True

    def add(self, name, content):
        self.files[f"/{name}"] = content
        return RemoteFile(
            name, f"http://127.0.0.1:{self.server_port}/{name}", f"md5:{hashlib.md5(content).hexdigest()}"
        )


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        if self.path not in self.server.files:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.files[self.path])))
        self.end_headers()

    def do_GET(self):
        content = self.server.files[self.path]
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.limit])


@pytest.fixture
def file_server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()
