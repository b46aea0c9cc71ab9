"""Records a trace of real clients on real engines: `python -m tests.laboratory.recording`, two minutes.

The proxy is the installed command with two instances of the embedded engine, the trace what its access log says
(`--log-format json`): when requests came and ended, and their tokens. What they were about is in no log, so each has a
request id of its conversation and its turn. `recorded` makes a trace of it: clients think as long as they did.
"""

import json
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

from tests.laboratory.trace import Trace, Writer
from tests.running import Running, real_engine

RECORD = Path(__file__).with_name("recorded.json")
CONVERSATIONS, TURNS = 5, 6
SYSTEM = " ".join(f"Rule {number}: answer question {number} politely and in whole sentences." for number in range(12))
THINKING = (1.0, 2.5)  # seconds


def recorded(seed: int = 0) -> Trace:
    """What was recorded; the seed changes nothing."""
    record = json.loads(RECORD.read_text())
    writer = Writer(seed)
    system = (writer.piece(record["system"]),)
    for _, turns in sorted(_by_conversation(record["requests"]).items()):
        talk = writer.conversation("recorded", system)
        has, ended, last = record["system"], 0.0, tuple[int, ...]()
        for one in turns:
            said = writer.piece(one["prompt"] - has)
            last = (talk.turn(said, one["completion"], after=last, pause=max(0.0, one["arrived"] - ended)),)
            has, ended = one["prompt"] + one["completion"], one["ended"]
    return writer.trace("recorded")


def first_tokens() -> list[float]:
    """Seconds that the real clients waited for the first token, in the order of the trace."""
    record = json.loads(RECORD.read_text())
    groups = sorted(_by_conversation(record["requests"]).items())
    return [one["first_token"] - one["arrived"] for _, turns in groups for one in turns]


def of_log(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """What the access log tells of the requests that were ours."""
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        conversation, _, turn = str(said.get("request_id", "")).partition(".")
        if not turn.isdigit() or said.get("status") != 200 or said.get("ttft_ms") is None:
            continue
        ended = datetime.fromisoformat(said["ts"]).timestamp()
        arrived = ended - said["duration_ms"] / 1000
        yield {
            "conversation": int(conversation),
            "turn": int(turn),
            "instance": said["instance"],
            "arrived": arrived,
            "first_token": arrived + said["ttft_ms"] / 1000,
            "ended": ended,
            "prompt": said["prompt_tokens"],
            "completion": said["completion_tokens"],
        }


def _by_conversation(requests: Iterable[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = {}
    for one in sorted(requests, key=lambda each: each["turn"]):
        groups.setdefault(one["conversation"], []).append(one)
    return groups


def main() -> int:
    model = Path.home() / ".cache" / "slotproxy" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    with tempfile.TemporaryDirectory(prefix="slotproxy-recording-") as scratch:
        options = ("--log-format", "json", "--affinity", "off", *real_engine(model, 2))
        proxy = Running.start(Path(scratch), *options)
        try:
            proxy.wait_ready(2)
            system = _tokens(proxy, SYSTEM)
            talks = [threading.Thread(target=_talk, args=(proxy, number)) for number in range(CONVERSATIONS)]
            for talk in talks:
                talk.start()
            for talk in talks:
                talk.join()
        finally:
            proxy.stop()
        requests = [*of_log(proxy.log.splitlines())]
    began = min(one["arrived"] for one in requests)
    for one in requests:
        one.update({key: round(one[key] - began, 3) for key in ("arrived", "first_token", "ended")})
    RECORD.write_text(json.dumps({"system": system, "requests": requests}, indent=1) + "\n")
    print(f"{len(requests)} requests in {RECORD}")
    return 0


def _talk(proxy: Running, number: int) -> None:
    dice = Random(number)
    words = " ".join(f"Item {place} of list {number} costs {dice.randrange(1000)} coins." for place in range(40))
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": words}]
    time.sleep(number * 0.7)
    for turn in range(TURNS):
        answer = _asked(proxy, f"{number}.{turn}", messages)
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": f"And item {turn}?"}]
        time.sleep(dice.uniform(*THINKING))


def _asked(proxy: Running, name: str, messages: list[dict[str, str]]) -> str:
    body = {"messages": messages, "max_tokens": 24, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    with _post(proxy, "/v1/chat/completions", body, {"x-request-id": name}) as answer:
        events = [line[6:] for line in answer if line.startswith(b"data: {")]
    parts = [choice["delta"].get("content") or "" for event in events for choice in json.loads(event)["choices"]]
    return "".join(parts)


def _tokens(proxy: Running, text: str) -> int:
    with _post(proxy, "/tokenize", {"content": text}, {}) as answer:
        return len(json.load(answer)["tokens"])


def _post(proxy: Running, path: str, body: object, fields: dict[str, str]) -> Any:
    url = proxy.base_url + path
    head = {"content-type": "application/json", **fields}
    return urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), head), timeout=300)


if __name__ == "__main__":
    sys.exit(main())
