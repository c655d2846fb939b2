"""The server as clients see it: OpenAI's own client, formats and errors, hang-ups, keys and limits."""

import contextlib
import json
import random
import socket
import threading
import time

import jax
import pytest

from rational_jax import models
from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.text.reasoning import THINK

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
httpx = pytest.importorskip("httpx2")

import serving  # noqa: E402

from rational_jax.sample import Request, wire  # noqa: E402
from rational_jax.sample.sequence import begins_inside, prompt_tokens  # noqa: E402
from rational_jax.sample.serve import _bound, serve  # noqa: E402

LONGEST = serving.LONGEST


@pytest.fixture(scope="module")
def micro():
    return serving.micro_engine()


@pytest.fixture(scope="module")
def running(micro):
    with serving.served(*micro, most_bytes=20_000, most_waiting=40) as found:
        yield found


def post(address, path, body, **more):
    return httpx.post(f"{address}{path}", json=body, timeout=120, **more)


def chat(**more):
    return {
        "model": "micro",
        "messages": [{"role": "user", "content": "How do I open a door?"}],
        "temperature": 0,
    } | more


def direct(micro, **settings):
    """What the engine says to the same question."""
    from rational_jax.sample import Request
    from rational_jax.text.chat import Message

    asked = Request(id="x", messages=(Message(role="user", content="How do I open a door?"),), **settings)
    return next(iter(micro[0].generate([asked])))


def test_a_chat_completion_is_the_engines_and_streams_to_the_same(micro, running):
    address, _ = running
    expected = direct(micro, max_new_tokens=40)
    found = post(address, "/v1/chat/completions", chat(max_tokens=40)).json()
    assert found["object"] == "chat.completion" and found["model"] == "micro"
    (choice,) = found["choices"]
    assert choice["message"]["content"] == expected.text and choice["finish_reason"] == expected.finish
    prompt, count = expected.prompt_tokens, len(expected.token_ids)
    assert found["usage"] == {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    pieces = list(client.chat.completions.create(**chat(max_tokens=40), stream=True))
    texts = [piece.choices[0].delta.content or "" for piece in pieces]
    assert "".join(texts) == expected.text and sum(map(bool, texts)) > 1
    assert pieces[-1].choices[0].finish_reason == expected.finish
    for error, wrong in ((openai.NotFoundError, {"model": "other"}), (openai.BadRequestError, {"max_tokens": -1})):
        with pytest.raises(error):
            client.chat.completions.create(**(chat() | wrong))


def test_reasoning_comes_apart_where_it_is_asked_for(micro, running):
    begun = [*chat()["messages"], {"role": "assistant", "content": None, "reasoning": "A door is"}]
    body = chat(messages=begun, reasoning_budget=8, max_tokens=40)
    whole = post(running[0], "/v1/chat/completions", body).json()["choices"][0]["message"]["content"]
    expected = THINK.split(f"<think>{whole}", finished=True)
    assert expected.reasoning and expected.answer and "</think>" in whole
    with serving.served(*micro, reasoning="field") as (address, _):
        message = post(address, "/v1/chat/completions", body).json()["choices"][0]["message"]
        assert message["content"] == expected.answer
        assert message["reasoning"] == message["reasoning_content"] == expected.reasoning
        parts = {"reasoning": "", "content": ""}
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body | {"stream": True}, timeout=60) as lines:
            for line in lines.iter_lines():
                if line.startswith("data: {"):
                    delta = json.loads(line[6:])["choices"][0]["delta"]
                    for name in parts:
                        parts[name] += delta.get(name) or ""
    assert parts == {"reasoning": expected.reasoning, "content": expected.answer}


def test_text_completions_of_several_prompts_with_echo_and_log_probabilities(micro, running):
    engine, renderer = micro
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12, 13]]
    body = {"model": "micro", "prompt": prompts, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
    choices = post(running[0], "/v1/completions", body).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    for prompt, choice in zip(prompts, choices, strict=True):
        found = choice["logprobs"]
        assert {len(values) for values in found.values()} == {len(prompt) + 1}
        assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
        decoder = models.bind(engine.config, engine.params)
        logits = decoder.unembed(decoder(jax.numpy.array([prompt]))[0])[0]
        exact = jax.nn.log_softmax(logits, axis=-1)
        for place, token in enumerate(prompt[1:]):
            # The same tolerance as for log-probabilities of the engine itself.
            assert abs(found["token_logprobs"][place + 1] - exact[place, token]) < 5e-4
            best = int(exact[place].argmax())
            assert (found["token_logprobs"][place + 1] == max(found["top_logprobs"][place + 1].values())) == (
                best == token
            )
        text = renderer.tokenizer.decode(prompt)
        assert choice["text"].startswith(text)
    # What is only scored has no tokens of its own, and a text comes back as it was sent.
    asked = {"model": "micro", "prompt": "How are you?", "max_tokens": 0, "echo": True, "logprobs": 1}
    scored = post(running[0], "/v1/completions", asked).json()
    (choice,) = scored["choices"]
    assert choice["text"] == "How are you?" and scored["usage"]["completion_tokens"] == 0
    said = choice["logprobs"]
    assert said["text_offset"][0] == 0 and len(said["text_offset"]) > 2
    for text, offset in zip(said["tokens"][1:], said["text_offset"][1:], strict=True):
        assert choice["text"][offset:].startswith(text)
    # A prompt as text is what /tokenize makes of it, and back.
    tokens = post(running[0], "/tokenize", {"prompt": "How are you?"}).json()["tokens"]
    by_text = {"model": "micro", "prompt": "How are you?", "max_tokens": 5, "temperature": 0}
    answers = [
        post(running[0], "/v1/completions", by_text | {"prompt": p}).json()["choices"] for p in ("How are you?", tokens)
    ]
    assert answers[0] == answers[1]
    assert post(running[0], "/detokenize", {"tokens": tokens}).json()["prompt"].endswith("How are you?")
    info = httpx.get(f"{running[0]}/tokenizer_info").json()
    assert info["eos_token"] == renderer.tokenizer.eos_token and info["chat_template"]


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("chat/completions", {"model": "no"}, 404, "model_not_found"),
        ("chat/completions", {"max_tokens": -3}, 400, "max_tokens"),
        ("chat/completions", {"max_tokens": LONGEST}, 400, "context_length_exceeded"),
        ("chat/completions", {"nonsense": 1}, 400, "Unrecognized request argument supplied: nonsense"),
        ("chat/completions", {"messages": []}, 400, "messages"),
        ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, 400, "role"),
        ("chat/completions", {"temperature": "hot"}, 400, "temperature"),
        ("chat/completions", {"presence_penalty": 1.5}, 400, "presence_penalty"),
        ("chat/completions", {"user": "x" * 30_000}, 413, "request_too_large"),
        ("chat/completions", b"{bad", 400, "JSON"),
        ("completions", {"prompt": [1] * LONGEST}, 400, "context_length_exceeded"),
        ("completions", {"prompt": [10**6]}, 400, "token ids must be from 0"),
        ("completions", {"prompt": []}, 400, "prompt"),
        ("nowhere", {}, 404, "Not Found"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_as_openai_says_it(running, path, body, status, said):
    if isinstance(body, dict):
        begin = chat() if path.startswith("chat") else {"model": "micro"}
        body = json.dumps(begin | body).encode()
    found = httpx.post(f"{running[0]}/v1/{path}", content=body, timeout=60)
    assert found.status_code == status
    error = found.json()["error"]
    assert said in f"{error['code']} {error['message']}" and error["type"] == "invalid_request_error"


def test_a_key_is_asked_for_and_health_is_not_secret(micro):
    with serving.served(*micro, api_key="s3cret") as (address, _):
        assert httpx.get(f"{address}/health").json()["status"] == "ok"
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            refused = httpx.get(f"{address}/v1/models", headers=headers)
            assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
        card = httpx.get(f"{address}/v1/models", headers={"Authorization": "Bearer s3cret"}).json()["data"][0]
        assert (card["id"], card["max_model_len"]) == ("micro", LONGEST)


def test_what_never_fits_is_refused_before_anything_is_made_of_it(running):
    """Three slots and forty places to wait: more is no matter of trying again later."""
    found = post(running[0], "/v1/completions", {"model": "micro", "prompt": [[1]] * 3000, "n": 2})
    assert (found.status_code, "takes 43 in all" in found.text) == (400, True)
    for path, body in (
        ("/v1/chat/completions", chat(stream=True, logprobs=True)),
        ("/v1/completions", {"prompt": "a", "stream": True, "logprobs": 1}),
        ("/v1/completions", {"prompt": "a", "stream": True, "echo": True, "max_tokens": 0}),
    ):
        assert post(running[0], path, body).status_code == 400


@pytest.mark.parametrize("key", [None, ""])
def test_no_key_lets_nobody_in_from_outside(key):
    with pytest.raises(UserError, match="set an API key"):
        serve(RunConfig(), "base", host="0.0.0.0", api_key=key)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_said_before_a_model_is_opened(host, monkeypatch):
    monkeypatch.setattr("rational_jax.sample.serve.open_engine", lambda *_: pytest.fail("opened for nothing"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: .*; choose another"):
            serve(RunConfig(), "base", host=host, port=port)
    with contextlib.ExitStack() as opened:  # of a server that is still compiling
        (place,) = _bound("127.0.0.1", 0, opened)
        with pytest.raises(UserError, match="choose another"):
            _bound("127.0.0.1", place.getsockname()[1], opened)
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1"):  # an address of nobody's
        serve(RunConfig(), "base", host="192.0.2.1", port=port, api_key="x")


def test_the_port_is_free_again_where_the_model_cannot_be_opened():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with pytest.raises(UserError, match="no/where"):
        serve(RunConfig(), "./no/where", port=port)
    socket.create_server(("127.0.0.1", port)).close()


def test_a_queue_that_is_full_says_so(micro):
    with serving.served(*micro, most_waiting=1) as (address, server):
        others = dict.fromkeys("ab")  # two that wait for answers, as long as it takes
        server.bridge._listeners |= others
        found = post(address, "/v1/chat/completions", chat(n=3, max_tokens=2, temperature=1))
        assert found.status_code == 429 and found.json()["error"]["code"] == "queue_full"
        for name in others:
            del server.bridge._listeners[name]
        assert len(post(address, "/v1/chat/completions", chat(n=4, max_tokens=2, temperature=1)).json()["choices"]) == 4


def all_free(address, seconds=30):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        state = httpx.get(f"{address}/health").json()
        if (state["free"], state["requests"]) == (state["slots"], 0):
            return True
        time.sleep(0.05)
    return False


def storm(address, count, seed):
    """Requests of every kind, right and wrong, some of whose clients leave; the statuses of those that stay."""
    rng, statuses = random.Random(seed), []
    for _ in range(count):
        kind = rng.random()
        body = chat(max_tokens=rng.randint(1, 60), temperature=rng.choice([0, 1.3]), stream=rng.random() < 0.5)
        body |= rng.choice([{}, {"n": 2}, {"stop": ["e"]}, {"top_k": 5, "logprobs": True}, {"reasoning_budget": 4}])
        raw = json.dumps(body).encode()
        if kind < 0.2:
            raw = raw[: rng.randrange(len(raw))] + bytes(rng.randrange(256) for _ in range(rng.randint(0, 9)))
        elif kind < 0.3:
            raw = json.dumps(
                body | {rng.choice(["max_tokens", "n", "messages", "seed"]): rng.choice([-1, "x", [], 1e9])}
            ).encode()
        leaves = rng.random() < 0.4
        try:
            found = httpx.post(
                f"{address}/v1/chat/completions", content=raw, timeout=rng.uniform(0.001, 0.1) if leaves else 120
            )
            statuses.append(found.status_code)
        except httpx.TimeoutException:
            assert leaves
    return statuses


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_whatever_comes_all_slots_are_free_again(running, count):
    address, server = running
    found = []
    threads = [
        threading.Thread(target=lambda seed=seed: found.extend(storm(address, count // 6, seed))) for seed in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) <= {200, 400, 429} and {200, 400} <= set(found)
    assert all_free(address) and server.bridge.alive
    assert post(address, "/v1/chat/completions", chat(max_tokens=3)).status_code == 200


def test_a_client_that_hangs_up_frees_its_slot(running):
    address, server = running
    before = server.engine.counters.tokens
    body = chat(max_tokens=80, temperature=5.0, stream=True)
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as lines:
        next(lines.iter_lines())
    assert all_free(address, 5)
    assert server.engine.counters.tokens - before < 80


def test_turns_keep_their_reasoning_apart(micro):
    renderer = micro[1]
    body = wire.parse(
        wire.ChatBody,
        json.dumps(
            chat(
                messages=[
                    {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
                    {"role": "assistant", "content": "<think>\nWhy.\n</think>\n\nSo."},
                    {"role": "assistant", "content": "So.", "reasoning_content": "Why."},
                ]
            )
        ).encode(),
    )
    system, *rest = [message.turn(renderer) for message in body.messages]
    assert (system.role, system.content) == ("system", "Be kind.")
    assert {(turn.content, turn.reasoning) for turn in rest} == {("So.", "Why.")}


@pytest.mark.parametrize(
    "text",
    [
        "<think>\n\n</think>\n\n",
        "<think>\nWhy.\n</think>\n\n",
        "<think>\nWhy.\n</think>\n\nSo ",
        "<think>\nWhy",
    ],
)
def test_a_turn_that_has_begun_goes_on_after_the_text_as_it_was_sent(micro, text):
    """Above all where its reasoning is closed: with nothing in it, or with no answer yet."""
    renderer = micro[1]
    body = chat(messages=[*chat()["messages"], {"role": "assistant", "content": text}])
    messages = wire.turns(wire.parse(wire.ChatBody, json.dumps(body).encode()).messages, renderer)
    request = Request(id="x", messages=messages, max_new_tokens=1)
    begun = prompt_tokens(renderer, request)[len(renderer.prompt(messages[:1])) :]
    assert renderer.decode(begun) == text
    assert begins_inside(renderer, request) == ("</think>" not in text)
    # A turn before the last one has all of its text too.
    later = chat(messages=[*body["messages"], *chat()["messages"]])
    messages = wire.turns(wire.parse(wire.ChatBody, json.dumps(later).encode()).messages, renderer)
    assert text.strip() in renderer.decode(renderer.prompt(messages))
