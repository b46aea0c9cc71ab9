#!/usr/bin/env python3
"""Behaves towards a supervisor and a proxy as an engine does, by its contract in `contracts`, without a model.

It is the engine whose executable's name it is run by: tests make links to it.

Lock file, order of start, banner, refusals, framing, one worker, cancellation, exits are the engine's; the answers are
canned: a word for each of `max_tokens`. A test tells it more in the environment: STUB_RECORD is a directory in which it
writes down what it was told and what it saw; STUB_SCRIPT is a JSON object of `load` (seconds that loading takes),
`pace` (seconds for a token), `ctx` (what it takes instead of what it is told), `oom_from` (the instance that finds no
memory) and `hold` (seconds for which it finishes its work at SIGTERM). Words in a prompt do more: `die`, `large`,
`late-error`, `lost-state`. The options --crash-after S and --stuck are understood of every engine.
"""

import fcntl
import http.server
import json
import os
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.stubs.contracts import CONTRACTS, EXECUTABLES, Contract

GENERATIONS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
OWN = {"--crash-after": True, "--stuck": False}  # and whether it has a value
OUT_OF_MEMORY = "ds4: Metal model warmup failed: Insufficient Memory (kIOGPUCommandBufferCallbackErrorOutOfMemory)"


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def die(text: str, code: int) -> NoReturn:
    log(text)
    sys.exit(code)


class Stub:
    """What the engine was told and what it is doing."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        self.name = name
        self.contract: Contract = CONTRACTS[name]
        self.script = {"load": 0.0, "pace": 0.01, "hold": 0.0} | json.loads(os.environ.get("STUB_SCRIPT", "{}"))
        self.own: dict[str, str] = {}
        self.facts: dict[str, Any] = self._understand(arguments)
        self.loaded, self.loading = threading.Event(), threading.Lock()
        self.worker = threading.Lock()
        self.present = 0  # requests that work or wait
        self.counting = threading.Lock()
        self.spare: list[Any] = []  # held for as long as this lives
        self._record = os.environ.get("STUB_RECORD")
        self.note("start", argv=arguments, cwd=os.getcwd(), env=dict(os.environ), facts=dict(self.facts))

    def _understand(self, arguments: list[str]) -> dict[str, Any]:
        contract, rest = self.contract, list(arguments)
        facts: dict[str, Any] = {"busy": False}
        if rest == ["--help"]:
            print(contract.version)
            sys.exit(0)
        for word in contract.words:
            given = rest.pop(0) if rest else die("a command is missing", 2)
            if word.startswith("{"):
                facts[word.strip("{}")] = given
            elif word != given:
                die(f"{self.name}: error: unrecognized arguments: {given}", 2)
        while rest:
            flag = rest.pop(0)
            if flag in contract.switches:
                continue
            if flag in OWN:
                self.own[flag] = rest.pop(0) if OWN[flag] else ""
            elif flag in contract.flags and rest:
                facts[contract.flags[flag]] = rest.pop(0)
            else:
                die(f"{self.name}: error: unrecognized arguments: {flag}", 2)
        for variable, what in contract.variables.items():
            if variable in os.environ:
                facts[what] = os.environ[variable]
        if "listen" in facts:
            facts["host"], _, facts["port"] = facts["listen"].rpartition(":")
        if contract.model == "name":
            facts["name"] = "llama3.2:3b"
        facts.setdefault("name", "ds4" if self.name == "ds4-server" else Path(facts.get("model", "m")).stem)
        facts["port"] = int(facts["port"])
        facts["ctx"] = int(self.script.get("ctx", facts.get("ctx", 0)))
        return facts

    def note(self, event: str, **details: Any) -> None:
        if self._record:
            line = json.dumps({"event": event, "engine": self.name, "pid": os.getpid()} | details)
            with (Path(self._record) / f"{os.getpid()}.jsonl").open("a") as file:
                file.write(line + "\n")

    def take_lock(self) -> None:
        if self.contract.lock is None:
            return
        path = os.environ.get(self.contract.lock, "/tmp/ds4.lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            die(f"ds4: failed to open lock file {path}: {error.strerror}", 2)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip() or "unknown"
            die(f"ds4: another ds4 process is already running (pid {holder}); refusing to start", 2)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self.spare.append(descriptor)

    def check_model(self) -> None:
        kind, facts = self.contract.model, self.facts
        if kind == "gguf":
            try:
                magic = Path(facts["model"]).read_bytes()[:4]
            except OSError:
                die(f"ds4: cannot open model: {facts['model']}", 1)
            if magic != b"GGUF":
                die(f"ds4: model is not a GGUF file: {facts['model']}", 1)
        elif kind in ("directory", "parent"):
            folder = Path(facts["model"]) if kind == "directory" else Path(facts["parent"]) / facts["name"]
            if not (folder / "config.json").is_file():
                die(f"FileNotFoundError: {folder}/config.json", 1)

    def prepare(self) -> None:
        """What comes before the weights: directories, further ports, memory."""
        if self.contract.makes:
            Path(self.facts[self.contract.makes]).mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.contract.needs and not Path(self.facts[self.contract.needs]).is_dir():
            die(f"error: not a directory: {self.facts[self.contract.needs]}", 1)
        for which in ("port2", "port3"):
            if which in self.facts:
                self.spare.append(socket.create_server((self.facts["host"], int(self.facts[which]))))
        if "sockets" in self.facts:
            Path(self.facts["sockets"]).touch()
        if "oom_from" in self.script and int(os.path.basename(os.getcwd())) >= self.script["oom_from"]:
            die(OUT_OF_MEMORY, 1)
        if self.contract.runner:
            self.spare.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))

    def load(self) -> None:
        with self.loading:
            if not self.loaded.is_set():
                time.sleep(self.script["load"])
                self.note("loaded")
                self.loaded.set()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def do_GET(self) -> None:
        contract, stub = self.stub.contract, self.stub
        if self.path not in contract.pages:
            self.answer(404, contract.error_404 or {"error": {"message": "not found"}})
        elif stub.loaded.is_set() or self.path in contract.early:
            document = contract.pages[self.path](stub.facts | {"busy": stub.worker.locked()})
            self.answer(200, document)
        else:
            self.answer(503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}})

    def do_POST(self) -> None:
        contract, stub = self.stub.contract, self.stub
        if "content-length" not in self.headers:
            self.answer(contract.measured_bodies_only or 400, {"error": "missing Content-Length"})
            return
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        stub.note("request", path=self.path, model=request.get("model"), headers=dict(self.headers.items()))
        if self.path not in GENERATIONS:
            self.answer(404, contract.error_404 or {"error": {"message": "not found"}})
        elif contract.knows is not None and request.get("model", "default_model") not in self.known():
            self.answer(404, contract.error_404)
        elif not self.join():
            self.answer(*contract.full)
        else:
            try:
                with stub.worker:  # one worker, first come first served
                    stub.load()
                    self.generate(request)
            finally:
                with stub.counting:
                    stub.present -= 1

    def known(self) -> list[str]:
        return [name.format_map(self.stub.facts) for name in self.stub.contract.knows or ()]

    def join(self) -> bool:
        stub = self.stub
        with stub.counting:
            if stub.contract.waiting is not None and stub.present > stub.contract.waiting:
                return False
            stub.present += 1
            return True

    def generate(self, request: dict[str, Any]) -> None:
        prompt, count = json.dumps(request.get("messages", "")), int(request.get("max_tokens") or 4)
        if "lost-state" in prompt:
            self.answer(409, {"error": {"message": "continuation state not available", "type": "conflict"}})
        elif request.get("stream"):
            self.stream(prompt, count)
        elif self.work(count, watched=self.stub.contract.cancels_unstreamed, dies="die" in prompt):
            choice = {"index": 0, "message": {"role": "assistant", "content": "word " * count}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": count + 1}
            self.answer(200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})

    def work(self, count: int, *, watched: bool, dies: bool = False) -> bool:
        """Whether it came to its end: nobody left, as far as that is looked for."""
        for number in range(count):
            if dies and number == count // 2:
                os._exit(3)
            if watched and self.left():
                self.stub.note("cancelled", after=number)
                return False
            time.sleep(self.stub.script["pace"])
        self.stub.note("finished")
        return True

    def left(self) -> bool:
        if not select.select([self.connection], [], [], 0)[0]:
            return False
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def stream(self, prompt: str, count: int) -> None:
        contract = self.stub.contract
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        chunked = not contract.old_http and not contract.one_request
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        if not chunked:
            self.send_header("Connection", "close")
            self.close_connection = True
        if contract.stalls is not None:
            wait = int(contract.stalls).to_bytes(8, "little") + bytes(8)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        try:
            self.end_headers()
            if contract.early_head:
                self.event(b": keep-alive\n\n", chunked)
            if "late-error" in prompt:
                self.event(b'data: {"error": {"message": "metal prefill failed at token 0"}}\n\n', chunked)
                count = 0
            self.events(count, chunked, "x" * 65536 if "large" in prompt else "word ", dies="die" in prompt)
        except OSError as error:
            self.close_connection = True
            self.stub.note("dropped" if isinstance(error, BlockingIOError) else "cancelled")
            log(f"{self.stub.name}: client disconnected, generation cancelled")

    def events(self, count: int, chunked: bool, text: str, *, dies: bool) -> None:
        for number in range(count):
            if not self.work(1, watched=True):
                raise BrokenPipeError
            if dies and number == count // 2:
                os._exit(3)
            choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
            data = json.dumps({"object": "chat.completion.chunk", "choices": [choice]})
            self.event(f"data: {data}\n\n".encode(), chunked)
        self.event(b"data: [DONE]\n\n", chunked)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def event(self, data: bytes, chunked: bool) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)

    def answer(self, status: int, document: Any) -> None:
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.stub.contract.one_request:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.stub.note("unread")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class names it
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go are no errors."""


def listen(stub: Stub) -> Server:
    host, port = stub.facts["host"], stub.facts["port"]
    try:
        return Server((host, port), Handler)
    except OSError as error:
        die(f"ds4-server: failed to listen on {host}:{port}: {error.strerror}", 1)


def main() -> None:
    called = os.path.basename(sys.argv[0])
    stub = Handler.stub = Stub(EXECUTABLES.get(called, called), sys.argv[1:])
    contract = stub.contract
    if contract.old_http:
        Handler.protocol_version = "HTTP/1.0"
    stub.take_lock()
    stub.check_model()
    stub.prepare()
    if contract.binds_last:
        stub.load()
    server = listen(stub)
    if contract.finishes is not None or "--stuck" in stub.own:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if "--stuck" in stub.own else lambda *_: stop(server))
    if "--crash-after" in stub.own:
        threading.Timer(float(stub.own["--crash-after"]), os._exit, (3,)).start()
    if contract.banner:
        log(contract.banner.format_map(stub.facts))
    if contract.loads_unasked:
        threading.Thread(target=stub.load, daemon=True).start()
    server.serve_forever(poll_interval=0.02)
    time.sleep(stub.script["hold"])
    log(contract.finishes or "")
    stub.note("stopped")
    for runner in stub.spare:
        if isinstance(runner, subprocess.Popen):
            runner.terminate()
            runner.wait()


def stop(server: Server) -> None:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(130))
    threading.Thread(target=server.shutdown).start()


if __name__ == "__main__":
    main()
