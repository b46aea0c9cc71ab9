"""Processes a careless engine leaves about. Each ends by itself, so that a failing test leaves none for long."""

import subprocess
import sys

LIFE = 60  # seconds

# Answers everything with 200, as if it were an engine.
STRANGER = """
import http.server, sys, threading
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    do_POST = do_GET
    log_message = lambda *args: None
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer)
print("up", flush=True)
threading.Timer(float(sys.argv[2]), server.shutdown).start()
server.serve_forever()
"""


def children(count: int) -> list[int]:
    """Pids of children in the group of this process, with its output."""
    return [subprocess.Popen(["sleep", str(LIFE)]).pid for _ in range(count)]


def daemons(count: int) -> list[int]:
    """Pids of grandchildren in sessions of their own whose parent has ended: no group and no tree leads to them."""
    return [int(_detached(f"sleep {LIFE} >/dev/null & echo $!")) for _ in range(count)]


def stranger(port: int) -> int:
    """The pid of a process that is nobody's child here and listens on `port` when this returns."""
    command = f"{sys.executable} -c '{STRANGER}' {port} {LIFE / 4} 2>/dev/null & echo $!"
    shell = subprocess.Popen(["sh", "-c", command], start_new_session=True, stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    pid = int(shell.stdout.readline())
    shell.stdout.readline()  # it says when it listens
    return pid


def _detached(command: str) -> bytes:
    return subprocess.run(["sh", "-c", command], start_new_session=True, stdout=subprocess.PIPE, check=True).stdout
