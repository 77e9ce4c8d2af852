"""A stand-in for the W&B server."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any


class StandIn(BaseHTTPRequestHandler):
    """As much of a W&B server as a run needs; it has `last_step` steps of every run, and refuses all if `refuses`."""

    last_step: int
    refuses: bool
    steps: list[int]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        answer: dict[str, Any] = {}
        if self.path.endswith("/graphql"):
            answer = {"data": self.data(body)}
        elif "wandb-history.jsonl" in body.get("files", {}):
            self.steps.extend(json.loads(row)["_step"] for row in body["files"]["wandb-history.jsonl"]["content"])
        self.send_response(401 if self.refuses else 200)
        encoded = json.dumps(answer).encode()
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def data(self, body: dict[str, Any]) -> dict[str, Any]:
        owner = {"id": "p", "name": "elongate", "entity": {"id": "e", "name": "somebody"}}
        run = {"id": "r", "name": body["variables"].get("name"), "displayName": "default", "project": owner, "tags": []}
        run |= {"config": "{}", "summaryMetrics": "{}", "wandbConfig": '{"t": 1}', "eventsTail": "[]"}
        run |= {"sweepName": None, "historyLineCount": self.last_step, "eventsLineCount": 0, "logLineCount": 0}
        run |= {"historyTail": json.dumps([json.dumps({"_step": self.last_step, "_runtime": 1})])}
        if "RunResumeStatus" in body["query"]:
            return {"model": owner | {"bucket": run if self.last_step else None}}
        if "UpsertBucket" in body["query"]:
            return {"upsertBucket": {"bucket": run, "inserted": not self.last_step}}
        if "CreateRunFiles" in body["query"]:
            url = f"http://127.0.0.1:{self.server.server_address[1]}/upload"
            files = [{"name": name, "uploadUrl": url} for name in body["variables"]["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        return {}

    def log_message(self, *_: Any) -> None:
        pass
