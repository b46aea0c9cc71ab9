#!/usr/bin/env python3
"""A program that behaves as ds4-server does towards a supervisor and a proxy, without a model.

Lock file, order of start, banner, one request per connection, no /health, one worker, errors and exits are those of the
real one; the answers are canned. `--crash-after S` and `--stuck` are ours, for tests.
"""

import argparse
import fcntl
import http.server
import json
import os
import signal
import socketserver
import sys
import threading
import time
from typing import Any

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def take_lock() -> int:
    path = os.environ.get("DS4_LOCK_FILE", "/tmp/ds4.lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log(f"ds4: failed to open lock file {path}: {error.strerror}")
        sys.exit(2)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode().strip() or "unknown"
        log(f"ds4: another ds4 process is already running (pid {holder}); refusing to start")
        sys.exit(2)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def check_model(path: str) -> None:
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError:
        log(f"ds4: cannot open model: {path}")
        sys.exit(1)
    if magic != b"GGUF":
        log(f"ds4: model is not a GGUF file: {path}")
        sys.exit(1)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    worker = threading.Lock()
    options: argparse.Namespace

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            model = {"id": "ds4", "object": "model", "context_length": self.options.ctx}
            self.answer(200, {"object": "list", "data": [model]})
        else:
            self.answer(404, {"error": {"message": "not found", "type": "invalid_request_error"}})

    def do_POST(self) -> None:
        if self.path not in ENDPOINTS:
            self.answer(404, {"error": {"message": "not found", "type": "invalid_request_error"}})
            return
        if "content-length" not in self.headers:
            self.answer(400, {"error": {"message": "missing Content-Length", "type": "invalid_request_error"}})
            return
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        count = int(request.get("max_tokens") or 4)
        with self.worker:  # one worker, first come first served
            if request.get("stream"):
                self.stream(count)
            else:
                time.sleep(0.01 * count)
                message = {"role": "assistant", "content": "word " * count}
                usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                self.answer(200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})

    def stream(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self.wfile.write(b": keep-alive\n\n")
            for number in range(count):
                chunk = {
                    "object": "chat.completion.chunk",
                    "choices": [{"index": 0, "delta": {"content": f"{number} "}}],
                }
                self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
                time.sleep(0.01)
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            log("ds4-server: client disconnected, generation cancelled")

    def answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ds4-server")
    parser.add_argument("-m", "--model", default="ds4flash.gguf")
    parser.add_argument("-c", "--ctx", type=int, default=32768)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--kv-disk-dir")
    parser.add_argument("--crash-after", type=float)
    parser.add_argument("--stuck", action="store_true", help="ignore SIGTERM")
    return parser.parse_args()


def main() -> None:
    options = Handler.options = parse()
    lock = take_lock()
    check_model(options.model)
    if options.kv_disk_dir:
        os.makedirs(options.kv_disk_dir, mode=0o700, exist_ok=True)
    try:
        server = Server((options.host, options.port), Handler)
    except OSError as error:
        log(f"ds4-server: failed to listen on {options.host}:{options.port}: {error.strerror}")
        sys.exit(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.stuck else lambda *_: stop(server))
    if options.crash_after is not None:
        threading.Timer(options.crash_after, os._exit, (3,)).start()
    log(f"ds4-server: listening on http://{options.host}:{options.port}")
    server.serve_forever(poll_interval=0.02)
    if options.kv_disk_dir:
        log("ds4-server: persisting current KV cache before shutdown")
    os.close(lock)


def stop(server: Server) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(130))
    threading.Thread(target=server.shutdown).start()


if __name__ == "__main__":
    main()
