"""A finished run with its kept texts, and a stand-in for the hub."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pdray.schema import KEPT, PAIRS, kept_schema
from tests.report.cases import Made, make_run, shards_of
from tests.report.cases import folder_of as stage_folder


def finished_run(
    root: Path,
    texts: dict[int, Any] | None = None,
    pairs: int = 60,
    shards: int = 3,
    licenses: tuple[str | None, ...] = (),
) -> Made:
    """Of the given pairs; their texts and licences as for :func:`tests.report.cases.make_run`."""
    made = make_run(root, pairs=pairs, shards=shards, texts=texts, until="selection", licenses=licenses)
    chat = bool(texts) and not isinstance(next(iter(texts.values()))[0], str) if texts else False
    folder = shards_of(stage_folder(made.run, "selection"), shards)
    for shard, rows in enumerate(np.array_split(np.arange(pairs), shards)):
        kept = [int(row) for row in rows if made.kept[row]]
        columns: dict[str, list[Any]] = {"pair_id": [made.ids[row] for row in kept]}
        for place, name in enumerate(("prompt", "chosen", "rejected")):
            columns[name] = [text_of(row, texts or {}, chat)[place] for row in kept]
        columns["aspect"] = [("helpful", "honest", "safe")[made.own[row]] for row in kept]
        tables = {PAIRS: folder.read(PAIRS, shard), KEPT: pa.table(columns, schema=kept_schema(chat))}
        folder.write(shard, tables, 0, {})
    return made


def text_of(row: int, texts: dict[int, Any], chat: bool) -> tuple[Any, Any, Any]:
    """Prompt, chosen and rejected of a pair."""
    if row in texts:
        return texts[row]
    plain = (f"question {row // 4}", f"good answer {row}", f"bad answer {row}")
    roles = ("user", "assistant", "assistant")
    return tuple([{"role": role, "content": text}] if chat else text for role, text in zip(roles, plain, strict=True))  # type: ignore[return-value]


@dataclass
class HubStandIn:
    """Answers what an upload asks of a hub, and keeps what it is given. Unlike the hub it takes every file whole."""

    endpoint: str = ""
    token: str = "hf_right"
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON."""
        path = path.partition("?")[0]
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {
                "url": f"{self.endpoint}/datasets/{self.created[-1].get('organization')}/{self.created[-1]['name']}"
            }
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            wanted = json.loads(body)["files"]
            return 200, {
                "files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in wanted]
            }
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "deletedFile":
                    self.deleted.append(value["path"])
                    self.files.pop(value["path"], None)
            return 200, {
                "commitUrl": f"{self.endpoint}/datasets/me/pairs/commit/1",
                "commitOid": "1" * 40,
                "hookOutput": "",
            }
        if "/tree/" in path:
            return 200, [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in self.files.items()
            ]
        if path.startswith("/api/datasets/"):
            return 200, {
                "id": path.removeprefix("/api/datasets/").partition("/revision")[0],
                "sha": "0" * 40,
                "siblings": [{"rfilename": name} for name in self.files],
            }
        return 404, {"error": f"{method} {path} is not part of the stand-in"}


@contextmanager
def hub_stand_in() -> Iterator[HubStandIn]:
    """A stand-in on a free port of the loopback interface."""
    hub = HubStandIn()

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            right = self.headers.get("Authorization") == f"Bearer {hub.token}"
            status, value = hub.answer(self.command, self.path, body) if right else (401, {"error": "Invalid token"})
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_HEAD = _reply

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
