"""Record a stream of the real embedded engine for the replay: `python -m tests.benchmarks.record MODEL.gguf`."""

import json
import sys
import urllib.request
from collections.abc import Iterator
from time import monotonic

from tests.benchmarks.processes import embedded, ended
from tests.benchmarks.wire import Recording

QUESTION = {
    "messages": [{"role": "user", "content": "Tell me about rivers."}],
    "max_tokens": 64,
    "temperature": 0,
    "stream": True,
    "stream_options": {"include_usage": True},
}


def events(url: str) -> Iterator[tuple[float, bytes]]:
    """Each event, and the seconds since the one before."""
    question = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(QUESTION).encode())
    question.add_header("Content-Type", "application/json")
    before = monotonic()
    with urllib.request.urlopen(question) as answer:
        lines = iter(answer.readline, b"")
        for line in lines:
            now = monotonic()
            yield now - before, line + next(lines)
            before = now


def main() -> None:
    engine = embedded(sys.argv[1], slots=1, threads=2)
    with ended(engine.process):
        rows = list(events(engine.url))
    Recording(chunks=tuple(row[1] for row in rows), gaps=tuple(round(row[0], 5) for row in rows)).save()


if __name__ == "__main__":
    main()
