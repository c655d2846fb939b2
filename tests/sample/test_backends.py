"""Backends beside the engine: an endpoint (a stand-in on this machine) and torch; and which the configuration opens."""

import dataclasses
import http.server
import itertools
import json
import logging
import threading
import time

import jax
import pytest
from tiny import tiny_llama

from rational_jax import sample
from rational_jax.config import EngineSection, RunConfig
from rational_jax.data.schema import Prompt
from rational_jax.errors import UserError
from rational_jax.manifest import read_stage
from rational_jax.models import abstract_params, logical_axes
from rational_jax.parallel import shardings
from rational_jax.sample import Request, deciding, model_identity, open_backend
from rational_jax.sample.backends import RULES, generation_mesh, generation_rules
from rational_jax.sample.endpoint import EndpointBackend, Pace
from rational_jax.sample.requests import taken_apart
from rational_jax.text.chat import Message
from rational_jax.text.reasoning import PLAIN, THINK

KEY = "sk-secret-of-the-test"


class StandIn:
    """An endpoint. `reply(number, body)` gives a status and what is sent: a dict as JSON, text as it is."""

    def __init__(self, reply):
        self.asked, self.headers, self.paths, self.most, self._now = [], [], [], 0, 0
        outer, lock = self, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    number = len(outer.asked)
                    outer.asked.append(body)
                    outer.headers.append(dict(self.headers))
                    outer.paths.append(self.path)
                    outer._now += 1
                    outer.most = max(outer.most, outer._now)
                status, content, *headers = reply(number, body)
                with lock:
                    outer._now -= 1
                if status is None:  # hangs up
                    self.close_connection = True
                    return
                data = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                for name, value in (("content-length", str(len(data))), *headers):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def serve():
    servers = []

    def start(reply):
        servers.append(StandIn(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def said(text, **more):
    message = {"role": "assistant", "content": text} | more.pop("message", {})
    choice = {"index": 0, "message": message, "finish_reason": "stop"} | more
    return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}


def echo(number, body):
    return 200, said("about " + body["messages"][-1]["content"])


def request(name="x", *turns, **settings):
    messages = turns or (Message(role="user", content=name),)
    return Request(id=name, messages=messages, **({"max_new_tokens": 9} | settings))


def backend(server, waits=None, form=THINK, **settings):
    section = EngineSection(backend="openai", endpoint=server.address, **settings)
    waits = [] if waits is None else waits
    return EndpointBackend(section, "some-model", form, wait=lambda stopped, seconds: waits.append(seconds))


def answers(made, *requests):
    return {completion.id: completion for completion in made.generate(requests)}


def test_what_is_asked_and_what_comes_back(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve(echo)
    turns = (
        Message(role="system", content="be brief"),
        Message(role="user", content="one"),
        Message(role="assistant", content="yes", reasoning="hm"),
        Message(role="user", content="two"),
    )
    got = answers(backend(server), request("x", *turns, temperature=0.5, top_p=0.9, seed=3))["x"]
    assert (got.text, got.finish, got.tokens, got.prompt_tokens, got.token_ids) == ("about two", "stop", 5, 7, ())
    assert server.asked == [
        {
            "model": "some-model",
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"},
                {"role": "user", "content": "two"},
            ],
            "max_tokens": 9,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 3,
        }
    ]
    assert server.paths == ["/v1/chat/completions"]
    assert {name.lower(): value for name, value in server.headers[0].items()}["authorization"] == f"Bearer {KEY}"
    monkeypatch.delenv("OPENAI_API_KEY")
    answers(backend(server), request("x", top_k=5, min_p=0.1))
    assert "authorization" not in {name.lower() for name in server.headers[1]}
    assert (server.asked[1]["top_k"], server.asked[1]["min_p"]) == (5, 0.1)


def test_reasoning_that_comes_apart_is_put_back_and_stops_act_on_the_answer(serve):
    replies = {
        "apart": said("the STOP answer", message={"reasoning_content": "a STOP"}),
        "newer": said("fine", message={"reasoning": "thought"}, finish_reason="length"),
        "cut": said(None, message={"reasoning": "thought\n\nso far"}, finish_reason="length"),
        "inline": said("<think>\nSTOP\n</think>\n\nyes STOP no"),
        "scored": said("ab", logprobs={"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1}]}),
    }
    server = serve(lambda number, body: (200, replies[body["messages"][-1]["content"]]))
    asked = [request(name, stop=("STOP",)) for name in ("apart", "newer", "cut", "inline")]
    got = answers(backend(server), *asked, request("scored", logprobs=True))
    assert got["apart"].text == "<think>\na STOP\n</think>\n\nthe "
    assert (got["newer"].text, got["newer"].finish) == ("<think>\nthought\n</think>\n\nfine", "length")
    assert (got["cut"].text, got["cut"].finish) == ("<think>\nthought\n\nso far", "length")
    assert taken_apart(got["cut"].text, got["cut"].finish, THINK).status == "truncated_reasoning"
    assert (got["inline"].text, got["inline"].finish) == ("<think>\nSTOP\n</think>\n\nyes ", "stop")
    assert got["scored"].logprobs == (-0.5, -1.0)
    cut = serve(lambda number, body: (200, replies["cut"]))
    assert answers(backend(cut, form=PLAIN), request())["x"].text == "thought\nso far"
    plain = serve(lambda number, body: (200, said("STOP thought\n\nanswer STOP")))
    assert answers(backend(plain, form=PLAIN), request(stop=("STOP",)))["x"].text == "STOP thought\n\nanswer "


def test_no_more_are_asked_at_once_than_allowed(serve):
    def slow(number, body):
        time.sleep(0.03)
        return echo(number, body)

    server = serve(slow)
    got = answers(backend(server, concurrency=3), *(request(str(i)) for i in range(12)))
    assert {name: c.text for name, c in got.items()} == {str(i): f"about {i}" for i in range(12)}
    assert server.most == 3


def test_what_may_pass_is_tried_again_with_longer_pauses(serve):
    troubles = [(503, "busy"), (429, "slow down", ("retry-after", "7")), (None, None), (500, "oops")]
    server = serve(lambda number, body: troubles[number] if number < 4 else echo(number, body))
    waits = []
    assert answers(backend(server, waits, retries=4), request())["x"].text == "about x"
    assert len(waits) == 4 and waits[1] == 7
    assert all(0.5 * 2**i <= wait <= 2**i for i, wait in enumerate(waits) if i != 1)
    server = serve(lambda number, body: (503, "busy, come back later"))
    with pytest.raises(UserError, match=r"'x': .* gave no answer: HTTP 503: busy, come back later; rerun to go on"):
        answers(backend(server, retries=2), request())
    assert len(server.asked) == 3


def test_what_will_not_pass_is_not_tried_again_and_the_key_is_in_no_message(serve, monkeypatch, caplog):
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    cases = {
        401: ({"error": f"incorrect key {KEY}"}, "into the environment variable MY_KEY"),
        400: ({"error": "too\nlong"}, "HTTP 400: .*too.*long.*; .* shorten the prompt 'x' or leave it out"),
        200: ("<html>a proxy</html>", "what came is no chat completion: <html>a proxy"),
    }
    for status, (content, message) in cases.items():
        server = serve(lambda number, body, status=status, content=content: (status, content))
        with pytest.raises(UserError, match=message) as caught:
            answers(backend(server, api_key_env="MY_KEY"), request())
        assert len(server.asked) == 1
        assert KEY not in str(caught.value) and "\n" not in str(caught.value)
    server = serve(lambda number, body: (200, said("", finish_reason="tool_calls")))
    with pytest.raises(UserError, match="finish_reason 'tool_calls'"):
        answers(backend(server), request())
    assert caplog.records and KEY not in caplog.text


def test_not_even_a_part_of_the_key_is_shown(serve, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve(lambda number, body: (401, "x" * 280 + KEY))
    with pytest.raises(UserError) as caught:
        answers(backend(server), request())
    assert KEY[:4] not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-\u00e9", "sk-one sk-two", "sk-\x1b"])
def test_a_key_that_no_header_can_hold_is_refused_at_once_and_not_shown(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY holds blanks or signs") as caught:
        EndpointBackend(EngineSection(backend="openai", endpoint="http://localhost/v1"), "m", THINK)
    assert "sk-" not in str(caught.value)


def test_an_answer_that_cannot_be_decoded_is_an_error_of_one_line(serve):
    server = serve(lambda number, body: (200, "no gzip", ("content-encoding", "gzip")))
    with pytest.raises(UserError, match="gave no answer: DecodingError"):
        answers(backend(server, retries=1), request())
    assert len(server.asked) == 2


def test_what_a_filter_stops_is_said_and_does_not_stop_the_rest(serve, tmp_path):
    """Before the answer, as Azure says it, or in it; the answers are told apart from refusals and from long ones."""
    replies = {
        "q0": (200, said("<think>\nhm\n</think>\n\nIt", finish_reason="content_filter")),
        "q1": (400, {"error": {"code": "content_filter", "message": "the prompt was filtered"}}),
        "q2": (200, said("fine")),
    }
    server = serve(lambda number, body: replies[body["messages"][-1]["content"]])
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": q, "text": q, "label": "benign"}) + "\n" for q in replies))
    section = {"backend": "openai", "endpoint": server.address}
    config = RunConfig.model_validate(
        {"run": str(tmp_path / "run"), "engine": section, "sample": {"suites": (str(prompts),)}}
    )
    sample.run(config, "base")
    manifest = read_stage(tmp_path / "run" / "sample" / "base", verb="sample")
    assert manifest["figures"]["status"] == {"content_filter": 2, "no_reasoning": 1}
    written = [json.loads(line) for line in open(f"{config.run}/sample/base/answers.jsonl", encoding="utf-8")]
    assert [(row["answer"], row["finish"]) for row in written] == [
        ("It", "content_filter"),
        ("", "content_filter"),
        ("fine", "stop"),
    ]
    assert len(server.asked) == 3


def test_after_a_failure_no_request_that_waits_for_its_turn_is_sent(serve):
    server = serve(lambda number, body: (400, "no"))
    section = EngineSection(backend="openai", endpoint=server.address, requests_per_minute=300)
    with pytest.raises(UserError, match="HTTP 400"):
        answers(EndpointBackend(section, "m", THINK), *(request(str(i)) for i in range(4)))
    assert len(server.asked) == 1


def test_who_stops_listening_asks_for_no_more(serve):
    def slow(number, body):
        time.sleep(0.02)
        return echo(number, body)

    server = serve(slow)
    coming = backend(server, concurrency=2).generate([request(str(i)) for i in range(50)])
    next(coming)
    coming.close()
    asked = len(server.asked)
    assert asked <= 5
    time.sleep(0.1)
    assert len(server.asked) == asked


def test_requests_come_at_an_even_pace():
    now = [100.0]
    pace = Pace(120, lambda: now[0])
    assert [pace.turn() for _ in range(4)] == [0, 0.5, 1.0, 1.5]
    now[0] = 110.0  # what was not used is not saved up
    assert [pace.turn() for _ in range(2)] == [0, 0.5]
    free = Pace(None, lambda: now[0])
    assert [free.turn() for _ in range(9)] == [0] * 9


def test_what_an_endpoint_cannot_do_is_refused_before_anything_is_asked(serve):
    server = serve(echo)
    made = backend(server)
    for settings in ({"reasoning_budget": 3}, {"prompt_logprobs": True}, {"stop_ids": (1,)}):
        with pytest.raises(UserError, match=f"'x': the backend openai has no {next(iter(settings))}"):
            made.generate([request("fine"), request("x", **settings)])
    begun = (Message(role="user", content="a"), Message(role="assistant", content="b"))
    with pytest.raises(UserError, match="cannot go on from a turn"):
        made.generate([request("x", *begun)])
    for address, message in (
        (None, "needs engine.endpoint"),
        ("localhost:8000", "must begin with http"),
        ("http://me:pw@localhost/v1", "must hold no password"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            EndpointBackend(EngineSection(backend="openai", endpoint=address), "m", THINK)
        assert "pw" not in str(caught.value)
    assert not server.asked


def test_rational_sample_takes_an_endpoint_and_goes_on_where_it_failed(serve, tmp_path):
    broken = itertools.count()
    server = serve(lambda number, body: (400, "no") if next(broken) == 3 else echo(number, body))
    prompts = tmp_path / "prompts.jsonl"
    rows = [
        Prompt(
            id=f"p{i}", messages=(Message(role="user", content=f"q{i}"),), label="benign", category="c", base_id=f"p{i}"
        )
        for i in range(6)
    ]
    prompts.write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows), "utf-8")
    config = RunConfig.model_validate(
        {
            "run": str(tmp_path / "run"),
            "model": {"name": "there/only"},
            "engine": {"backend": "openai", "endpoint": server.address, "concurrency": 1},
            "sample": {"suites": (str(prompts),)},
        }
    )
    with pytest.raises(UserError, match="HTTP 400"):
        sample.run(config, "base")
    # Neither speed nor patience decide an answer.
    patient = config.engine.model_copy(update={"concurrency": 2, "retries": 1})
    sample.run(config.model_copy(update={"engine": patient}), "base")
    written = [json.loads(line) for line in open(f"{config.run}/sample/base/answers.jsonl", encoding="utf-8")]
    assert [(row["prompt"]["id"], row["answer"], row["tokens"]) for row in written] == [
        (f"p{i}", f"about q{i}", 5) for i in range(6)
    ]
    assert len(server.asked) == 7, "what was answered before the failure is not asked again"
    manifest = read_stage(f"{config.run}/sample/base", verb="sample")
    assert manifest["inputs"]["model"] == {"backend": "openai", "endpoint": server.address, "model": "there/only"}
    assert model_identity(config, "rational")["model"] == "rational"
    other = config.engine.model_copy(update={"endpoint_model": "another"})
    with pytest.raises(UserError, match="endpoint_model"):
        sample.run(config.model_copy(update={"engine": other}), "base")


def test_settings_of_the_engine_are_what_they_were_before_there_were_backends():
    assert deciding(EngineSection(concurrency=3)) == {"slots": 64, "max_length": 256}


def test_torch_answers_what_the_engine_answers(tmp_path):
    pytest.importorskip("torch").set_num_threads(1)
    config = RunConfig.model_validate(
        {
            "run": str(tmp_path),
            "engine": {"backend": "transformers", "slots": 2, "max_length": 128},
            "curate": {"max_new_tokens": 8},
            "sample": {"max_new_tokens": 8},
        }
    )
    theirs = open_backend(config)
    native = config.engine.model_copy(update={"backend": "engine"})
    ours = open_backend(config.model_copy(update={"engine": native}))
    asked = [request(f"How do I bake bread? {i}", max_new_tokens=24) for i in range(2)]
    ends = {c.id: (c.token_ids, c.text, c.finish, c.prompt_tokens) for c in ours.generate(asked)}
    assert {c.id: (c.token_ids, c.text, c.finish, c.prompt_tokens) for c in theirs.generate(asked)} == ends
    drawn = [request(str(i), temperature=1.5, seed=i, top_k=20, min_p=0.01, max_new_tokens=12) for i in range(2)]
    together = answers(theirs, *drawn)
    assert together["0"].token_ids != together["1"].token_ids
    assert answers(theirs, drawn[1])["1"] == together["1"], "a draw depends on its request alone"
    with pytest.raises(UserError, match="the backend transformers has no logprobs"):
        theirs.generate([request(logprobs=True)])
    json.dumps(theirs.identity)


def test_a_vocabulary_that_does_not_divide_over_the_devices_lies_on_all_of_them():
    for size, placed in ((64, "tensor"), (67, None)):
        decoder = tiny_llama(vocab_size=size)
        mesh = generation_mesh(decoder, jax.devices())
        rules = generation_rules(decoder, mesh)
        found = shardings(mesh, rules, abstract_params(decoder), logical_axes(decoder))
        assert found["embed"]["weight"].spec == jax.P(placed, None)
        assert dataclasses.replace(rules, vocab="tensor") == RULES
