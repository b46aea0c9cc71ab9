"""The official clients, as people use them, at two real instances."""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator

import anthropic
import openai
import pytest

from tests.acceptance.conftest import StartBehind
from tests.running import Running

GREEDY = {"temperature": 0}
MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Say hi."}]
JSON = "Content-Type: application/json"
TOOL: openai.types.chat.ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def sdk(proxy: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{proxy.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_sdk(proxy: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{proxy.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def claude(proxy: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=proxy.base_url, api_key="none", max_retries=0) as client:
        yield client


def test_openai_chat(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 1 <= answer.usage.completion_tokens <= 8


def test_openai_says_which_request_it_was(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=1)
    assert answer._request_id


def test_openai_stream_with_usage(sdk: openai.OpenAI) -> None:
    chunks = list(
        sdk.chat.completions.create(
            model="demo", messages=MESSAGES, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage is not None


def test_openai_text_completion(sdk: openai.OpenAI) -> None:
    assert sdk.completions.create(model="demo", prompt="One, two,", max_tokens=4).choices[0].text


def test_openai_responses(sdk: openai.OpenAI) -> None:
    assert sdk.responses.create(model="demo", input="Say hi.", max_output_tokens=8).output_text


def test_openai_tools_at_a_model_that_may_not_use_them(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="demo", messages=MESSAGES, tools=[TOOL], max_tokens=4)
    message = answer.choices[0].message
    assert message.content or message.tool_calls


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_tool_calls_of_an_engine_reach_the_client(behind: StartBehind, *, stream: bool) -> None:
    bench = await behind()
    call = {
        "index": 0,
        "id": "1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Paris"}'},
    }
    choice = {"index": 0, "delta" if stream else "message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
    body = json.dumps({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
    event_stream = {"body": f"data: {body}\n\ndata: [DONE]\n\n", "headers": {"Content-Type": "text/event-stream"}}
    bench.engine.default = event_stream if stream else {"body": body}
    base_url = f"http://127.0.0.1:{bench.port}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        if stream:
            chunks = await client.chat.completions.create(model="m", messages=MESSAGES, tools=[TOOL], stream=True)
            calls = [chunk.choices[0].delta.to_dict()["tool_calls"] async for chunk in chunks]
        else:
            whole = await client.chat.completions.create(model="m", messages=MESSAGES, tools=[TOOL])
            calls = [whole.choices[0].message.to_dict()["tool_calls"]]
    assert calls == [[call]]
    assert bench.engine.asked[-1].json()["tools"] == [TOOL]


def test_openai_n(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=2, n=1)
    assert len(answer.choices) == 1
    # A single-slot llama.cpp refuses more; the refusal is the engine's own and reaches the client as it is.
    with pytest.raises(openai.BadRequestError, match="n"):
        sdk.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=2, n=2)


def test_openai_models(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()]


def test_openai_embeddings_are_refused_with_an_error_object(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        sdk.embeddings.create(model="demo", input="x")
    assert caught.value.status_code >= 400
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"]


def test_openai_sees_the_engines_own_error(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="context size"):
        sdk.chat.completions.create(model="demo", messages=[{"role": "user", "content": "word " * 5000}])


async def test_openai_async_chat_and_stream(async_sdk: openai.AsyncOpenAI) -> None:
    answer = await async_sdk.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=4)
    assert answer.choices[0].message.content
    stream = await async_sdk.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=4, stream=True)
    assert [chunk async for chunk in stream if chunk.choices]


def test_anthropic_messages(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model="demo", max_tokens=8, messages=[{"role": "user", "content": "Say hi."}])
    assert answer.content[0].type == "text"
    assert answer.usage.output_tokens >= 1


def test_anthropic_stream(claude: anthropic.Anthropic) -> None:
    # llama.cpp leaves message_start out where its first token is half of a character, as most emoji's are; this model
    # says one now and then when it draws at random.
    messages: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Say hi."}]
    with claude.messages.stream(model="demo", max_tokens=8, extra_body=GREEDY, messages=messages) as stream:
        assert "".join(stream.text_stream)
        assert stream.get_final_message().stop_reason in ("max_tokens", "end_turn")


@pytest.mark.parametrize("stream", [False, True])
def test_curl(proxy: Running, *, stream: bool) -> None:
    body = json.dumps({"messages": MESSAGES, "max_tokens": 4, "stream": stream})
    url = f"{proxy.base_url}/v1/chat/completions"
    command = ["curl", "--silent", "--show-error", "--fail", "--no-buffer", "--header", JSON, "--data", body, url]
    output = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    if stream:
        assert output.startswith(b"data: {")
        assert output.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(output)["choices"][0]["message"]["content"]
