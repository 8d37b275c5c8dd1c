"""OpenAI's endpoints, asked by OpenAI's own client."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import APIStatusError, AuthenticationError, BadRequestError, NotFoundError, OpenAI

from llmstages.model.decoding import Decoder
from llmstages.serve import server as server_module

QUESTIONS = [f"What is {name}?" for name in ("DEBUGGING", "a string", "x")]


@pytest.fixture(scope="module")
def client(answering):
    with OpenAI(base_url=f"{answering.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client, text, **settings):
    return client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": text}], **settings
    )


def test_a_greedy_answer_is_that_of_generate(cli, client, instruct_run):
    words = ["generate", instruct_run, QUESTIONS[0], "temperature=0", "max_new_tokens=9"]
    said = chat(client, QUESTIONS[0], max_completion_tokens=9)
    assert said.choices[0].message.content + "\n" == cli(*words)[1]
    assert said.choices[0].finish_reason in ("stop", "length")
    assert said.usage.completion_tokens == 9 or said.choices[0].finish_reason == "stop"
    continued = client.completions.create(model="tiny", prompt="The for", max_tokens=9)
    words[2] = "The for"
    assert "The for" + continued.choices[0].text + "\n" == cli(*words, "chat='off'")[1]
    sampled = chat(client, QUESTIONS[0], seed=5, temperature=0.9, top_p=0.9, n=2, max_tokens=9)
    words[2:4] = [QUESTIONS[0], "temperature=0.9", "top_p=0.9", "seed=5", "num_samples=2"]
    assert "".join(c.message.content + "\n" for c in sampled.choices) == cli(*words)[1]


def test_a_stream_is_the_answer_in_pieces(client):
    said = chat(client, QUESTIONS[1])
    chunks = list(chat(client, QUESTIONS[1], stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0] for chunk in chunks[:-1]]
    assert "".join(piece.delta.content or "" for piece in pieces) == said.choices[0].message.content
    assert pieces[0].delta.role == "assistant"
    assert [p.finish_reason for p in pieces if p.finish_reason] == [said.choices[0].finish_reason]
    assert chunks[-1].usage == said.usage
    assert len({chunk.id for chunk in chunks}) == 1
    several = client.completions.create(model="tiny", prompt=["The", "A"], n=2, stream=True)
    texts = ["", "", "", ""]
    for chunk in several:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    whole = client.completions.create(model="tiny", prompt=["The", "A"], n=2)
    assert texts == [choice.text for choice in whole.choices]


def test_an_answer_ends_before_what_it_should_stop_at(client, answering):
    def ask(**settings):
        return client.completions.create(model="tiny", prompt="The value", **settings)

    whole = ask(max_tokens=20)
    text = whole.choices[0].text
    stop = text[5:8]
    ended = ask(max_tokens=20, stop=[stop, "never there"])
    assert ended.choices[0].text == text[: text.index(stop)]
    assert ended.choices[0].finish_reason == "stop"
    assert ended.usage.completion_tokens < whole.usage.completion_tokens
    streamed = ask(max_tokens=20, stop=stop, stream=True)
    assert "".join(c.choices[0].text for c in streamed) == ended.choices[0].text
    answering.wait_until(lambda: answering.service.engine.running == 0)


def test_many_clients_get_what_each_gets_alone(client):
    settings = [
        {"temperature": (0, 0.8, 1)[i % 3], "seed": i, "max_tokens": 3 + i % 9} for i in range(32)
    ]
    asked = [(f"{QUESTIONS[i % 3]} {i % 5}", settings[i]) for i in range(32)]
    alone = [chat(client, text, **more).choices[0].message.content for text, more in asked]

    def stream(text, more):
        pieces = chat(client, text, stream=True, **more)
        return "".join(piece.choices[0].delta.content or "" for piece in pieces)

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda one: stream(one[0], one[1]), asked))
    assert together == alone


def test_models_and_errors(client, answering):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(NotFoundError, match="one model here: tiny"):
        client.models.retrieve("other")
    with pytest.raises(BadRequestError, match="logprobs is not supported"):
        chat(client, "a", logprobs=True)
    with pytest.raises(BadRequestError, match="the model reads 64 tokens") as caught:
        chat(client, "word " * 100)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(BadRequestError, match="and 60 more are asked for"):
        chat(client, "What is this?", max_tokens=60)
    with pytest.raises(BadRequestError, match=r"temperature: .* less than or equal to 2") as caught:
        chat(client, "a", temperature=2.5)
    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(NotFoundError):
        client.embeddings.create(model="tiny", input="a")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "not valid JSON"),
        (b"[" * 100_000, 400, "not valid JSON"),
        (b"[]", 400, "valid dictionary"),
        (b'{"prompt": "a", "temperature": NaN}', 400, "temperature"),
        (b'{"prompt": [1, 100000]}', 400, "token ids are 0 to"),
        (b'{"prompt": []}', 400, "empty"),
        (b'{"prompt": "a", "n": 33}', 400, "at most 32 answers"),
        (b'{"prompt": "a", "logprobs": 0}', 400, "logprobs"),
        (b'{"prompt": "' + b"a" * 2**20 + b'"}', 413, "1048576 bytes"),
    ],
)
def test_what_is_no_request_is_refused(answering, body, status, message):
    found, _, said = answering.call("POST", "/v1/completions", body)
    assert found == status
    assert message in said["error"]["message"]
    assert set(said["error"]) == {"message", "type", "param", "code"}


def test_other_sites_cannot_ask_through_a_browser(answering):
    ask = {"prompt": "a"}
    assert answering.call("POST", "/v1/completions", ask, Content_Type="text/plain")[0] == 415
    assert answering.call("POST", "/v1/completions", ask, Host="evil.example")[0] == 403
    assert answering.call("GET", "/health", Host="localhost:1")[0] == 200
    assert answering.call("GET", "/v1/completions")[0] == 405
    assert answering.call("POST", "/classify", ask)[2]["error"]["message"].startswith("tiny is a")


@pytest.fixture
def slow(monkeypatch):
    """Steps of the model wait for this to be set."""
    gate = threading.Event()
    step = Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda *given: gate.wait(20) and step(*given))
    yield gate
    gate.set()


def test_a_full_server_says_so_and_a_client_that_leaves_makes_room(
    serving, instruct_run, slow, capfd
):
    with serving(instruct_run, batch_size=1, max_waiting=1, name="tiny") as server:
        engine = server.service.engine
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        streams = [chat(client, text, stream=True, max_tokens=30) for text in ("secret one", "b")]
        server.wait_until(lambda: (engine.running, engine.waiting) == (1, 1))
        with pytest.raises(APIStatusError) as caught:
            chat(client, "c")
        assert caught.value.status_code == 429
        assert int(caught.value.response.headers["retry-after"]) >= 1
        for stream in streams:
            stream.close()
        slow.set()
        server.wait_until(lambda: (engine.running, engine.waiting) == (0, 0))
        assert engine.new_tokens < 30
        # Also one that waits for a whole answer.
        slow.clear()
        with pytest.raises(Exception, match="timed out"):
            chat(client.with_options(timeout=0.3), "d", max_tokens=30)
        server.wait_until(lambda: bool(engine._unwanted))
        slow.set()
        server.wait_until(lambda: engine.running == 0)
        assert engine.new_tokens < 30
        client.close()
    log = capfd.readouterr().err
    assert "POST /v1/chat/completions 200" in log
    assert "unfinished" in log
    assert "POST /v1/chat/completions 499" in log
    assert "secret" not in log


def test_an_answer_that_takes_too_long_and_a_model_that_fails(
    serving, instruct_run, monkeypatch, slow
):
    with serving(instruct_run, timeout_seconds=0.2) as server:
        ask = {"messages": [{"role": "user", "content": "a"}]}
        status, headers, said = server.call("POST", "/v1/chat/completions", ask)
        assert (status, headers["x-should-retry"]) == (504, "false")
        assert "0.2 seconds" in said["error"]["message"]
        text = server.call("POST", "/v1/chat/completions", ask | {"stream": True})[2]
        assert '"code": "timeout"' in text
        assert "[DONE]" not in text
        slow.set()
        with monkeypatch.context() as patch:
            patch.setattr(Decoder, "read", lambda *given: 1 / 0)
            assert server.call("POST", "/v1/chat/completions", ask)[0] == 500
        assert server.call("POST", "/v1/chat/completions", ask)[0] == 200
        # The place is free a moment after the answer is sent.
        server.wait_until(lambda: server.call("GET", "/metrics")[2]["answers_running"] == 0)


def test_an_answer_that_the_end_of_the_server_cuts_off_says_so(serving, instruct_run, monkeypatch):
    step = Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda *given: time.sleep(0.2) or step(*given))
    monkeypatch.setattr(server_module, "GRACE_SECONDS", 0.1)
    ask = {"prompt": "The", "max_tokens": 60}
    with ThreadPoolExecutor(2) as pool:
        with serving(instruct_run) as server:
            whole = pool.submit(server.call, "POST", "/v1/completions", ask)
            pieces = pool.submit(server.call, "POST", "/v1/completions", ask | {"stream": True})
            server.wait_until(lambda: server.service.engine.running == 2)
        assert whole.result()[0] == 503
        assert '"message": "the server ends"' in pieces.result()[2]


def test_a_key(serving, instruct_run, monkeypatch, capfd):
    monkeypatch.setenv("TINY_KEY", "hush-hush")
    with serving(instruct_run, api_key_env="TINY_KEY") as server:
        with pytest.raises(AuthenticationError, match="a key is needed"):
            OpenAI(base_url=f"{server.url}/v1", api_key="other", max_retries=0).models.list()
        assert OpenAI(base_url=f"{server.url}/v1", api_key="hush-hush").models.list().data
        statuses = [server.call("GET", path)[0] for path in ("/health", "/", "/metrics")]
        assert statuses == [200, 200, 401]
        bearer = {"Authorization": "Bearer hush-hush"}
        assert server.call("GET", "/v1/models/a%20text", **bearer)[0] == 404
        assert server.call("GET", "/a%20text", **bearer)[0] == 404
    log = capfd.readouterr().err
    assert "GET /v1/models/{name} 404" in log
    assert "GET (no such path) 404" in log
    assert "hush" not in log
    assert "text" not in log
