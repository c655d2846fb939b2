"""An HTTP server on this machine that sends ranges of files and writes down what it was asked for."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Shelf:
    """What the server has, by path ("/model/config.json"), and whether it knows ranges and says lengths.

    `asked` are the files that were asked for with the range, as (path, first, last + 1), or (path, None, None) for a
    whole file. The next `cuts` replies end half-way. With `refuses` every reply is an error of that status.
    """

    files: dict[str, bytes]
    ranges: bool = True
    lengths: bool = True
    cuts: int = 0
    refuses: int = 0
    asked: list[tuple[str, int | None, int | None]] = field(default_factory=list)
    address: str = ""

    def ranges_of(self, path: str) -> list[tuple[int | None, int | None]]:
        """The ranges of one file in the order in which they were asked for."""
        return [(first, end) for name, first, end in self.asked if name == path]


@contextlib.contextmanager
def shelved(**files: bytes) -> Iterator[Shelf]:
    """A server with these files, the names with `__` for `/`; what is under a path that ends in `/` is listed there."""
    shelf = Shelf({f"/{name.replace('__', '/')}": data for name, data in files.items()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            if shelf.refuses:
                self.send_error(shelf.refuses)
                return
            data = shelf.files.get(self.path)
            inside = [name for name in shelf.files if name.startswith(self.path)]
            if data is None and self.path.endswith("/") and inside:
                names = sorted({name.removeprefix(self.path).partition("/")[:2] for name in inside})
                data = "".join(f'<a href="{name}{slash}">{name}</a>\n' for name, slash in names).encode()
            elif data is None:
                self.send_error(404)
                return
            wanted, status = self.headers.get("Range"), 200
            first, end = 0, len(data)
            if wanted and shelf.ranges:
                first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
                end, status = min(last + 1, end), 206
            if body and self.path in shelf.files:
                shelf.asked.append((self.path, first, end) if status == 206 else (self.path, None, None))
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
            if shelf.lengths:
                self.send_header("Content-Length", str(end - first))
            else:
                self.send_header("Connection", "close")
            self.send_header("ETag", f'"{hash(data)}"')
            self.send_header("Accept-Ranges", "bytes" if shelf.ranges else "none")
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(data)}")
            self.end_headers()
            if not body:
                return
            if shelf.cuts and self.path in shelf.files:
                shelf.cuts -= 1
                self.wfile.write(data[first : (first + end) // 2])
                self.close_connection = True
                return
            self.wfile.write(data[first:end])

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            """A reader that hangs up in the middle is none."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    shelf.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield shelf
    finally:
        server.shutdown()
        server.server_close()
