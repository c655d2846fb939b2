"""What a request can ask for: cuts, stops, budgets for reasoning, beginnings, log-probabilities."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import tiny_llama

from rational_jax import models
from rational_jax.errors import UserError
from rational_jax.models import Execution, bind
from rational_jax.sample import Engine, Request, programs
from rational_jax.sample.requests import taken_apart
from rational_jax.sample.sampling import most_probable, next_tokens
from rational_jax.sample.sequence import Generated, begins_inside, find_stop
from rational_jax.text.chat import Message
from rational_jax.text.reasoning import PLAIN, THINK

CONFIG = tiny_llama(vocab_size=61, max_positions=64, tie_embeddings=False)
EXTENT = 48
# What is asked for beside log-probabilities, so that two ways to sample are compiled and not more.
CUTS = {"top_p": 0.95, "top_k": 40, "min_p": 0.001}


class Letters:
    """A renderer whose tokens are characters: 0 to 57 stand for those from "A" on, 58 for a line end, 59 for "<think>",
    60 for "</think>"."""

    stop_ids = ()
    table = (*(chr(65 + i) for i in range(58)), "\n", "<think>", "</think>")

    def __init__(self, reasoning=THINK):
        self.reasoning = reasoning

    def prompt(self, messages):
        return self.continuation(messages[-1].content)

    def continuation(self, text):
        ids = []
        while text:
            found = next(i for i in reversed(range(61)) if text.startswith(self.table[i]))
            ids.append(found)
            text = text[len(self.table[found]) :]
        return ids

    def decode(self, tokens):
        return "".join(self.table[token] for token in tokens)


@pytest.fixture(scope="module")
def engine():
    # Ten times the usual deviation, so that attention and layers matter to the logits.
    tree = models.init_params(CONFIG, jax.random.key(0))
    params = jax.tree.map(lambda x: x * 10 if x.std() > 0 else x, tree)
    made = Engine(
        CONFIG, params, Letters(), slots=3, max_length=EXTENT, steps_per_dispatch=4, execution=Execution(scan=True)
    )
    made.warm_up([8, 24], prompt_logprobs=True)
    made.warm_up([8, 24], top_p=True, cuts=True, logprobs=True)
    return made


def ask(engine, *requests):
    return {completion.id: completion for completion in engine.generate(requests)}


def request(name="x", prompt="ABC", **settings):
    return Request(id=name, messages=(Message(role="user", content=prompt),), **({"max_new_tokens": 16} | settings))


def log_probabilities(engine, tokens):
    """Float64 `[S, V]` of the full pass."""
    decoder = bind(CONFIG, engine.params)
    logits = np.asarray(decoder.unembed(decoder(np.array([tokens]))[0])[0], np.float64)
    return (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


def test_cuts_are_those_of_a_sorted_vocabulary():
    rng = np.random.default_rng(0)
    weights = np.exp(rng.normal(size=(4, 101)) * 3).astype(np.float32)
    weights /= weights.max(-1, keepdims=True)
    for row, k in enumerate((1, 5, 100, 0)):
        kept = np.asarray(most_probable(weights, np.array([k] * 4, np.int32)))[row]
        assert set(np.flatnonzero(kept)) == set(np.argsort(-weights[row])[: k or 101])
    logits = np.log(weights[:1])

    def drawn(**cuts):
        every = {name: np.repeat(value, 150) for name, value in cuts.items()}
        seeds, ones = np.arange(150, dtype=np.uint32), np.ones(150, np.float32)
        return set(np.asarray(next_tokens(np.repeat(logits, 150, 0), seeds, ones.astype(np.int32), ones, **every)))

    # Of the 30 most probable tokens those with a tenth of the weight of the first.
    cuts = dict(top_k_B=np.int32([30]), min_p_B=np.float32([0.1]))
    assert 1 < len(drawn(**cuts)) and drawn(**cuts) <= set(np.flatnonzero(weights[0] >= 0.1))
    assert not drawn() <= set(np.flatnonzero(weights[0] >= 0.1))
    # Nuclei are taken of what top-k left: the two first tokens have far less than 90% of all, and more of two.
    assert len(drawn(top_k_B=np.int32([2]), min_p_B=np.float32([0]), top_p_B=np.float32([0.999]))) == 2


def test_requests_with_cuts_do_not_change_their_neighbours(engine):
    plain = [request(f"plain {i}", temperature=1.3, seed=i) for i in range(3)]
    cut = [request(f"cut {i}", temperature=1.3, seed=i, top_k=1 + i, top_p=0.99, logprobs=True) for i in range(3)]
    together = ask(engine, *plain, *cut)
    assert {r.id: together[r.id] for r in plain} == ask(engine, *plain)
    greedy = ask(engine, request())["x"]
    assert together["cut 0"].token_ids == greedy.token_ids, "the most probable token alone is the greedy one"


def test_log_probabilities_are_those_of_the_full_pass(engine, monkeypatch):
    asked = [request(f"{i}", "ABCDEFGHIJKLMNOPQRS"[: 5 + 7 * i], logprobs=True, prompt_logprobs=True) for i in range(3)]
    asked[2] = dataclasses.replace(asked[2], temperature=1.7, seed=5, **CUTS)
    completions = ask(engine, *asked)
    for completion in completions.values():
        prompt = Letters().prompt(asked[int(completion.id)].messages)
        tokens = [*prompt, *completion.token_ids]
        expected = log_probabilities(engine, tokens)[np.arange(len(tokens) - 1), tokens[1:]]
        assert completion.prompt_logprobs[0] is None
        ours = np.array([*completion.prompt_logprobs[1:], *completion.logprobs])
        # Logits up to 20 in size differ by 1.2e-5 of the largest (test_engine), two of them meet here.
        assert len(ours) == len(expected) and np.abs(ours - expected).max() < 5e-4
    assert ask(engine, request())["x"].logprobs is None
    # Pieces that do not divide the vocabulary, of which the last reaches back. Above, one piece was all.
    monkeypatch.setattr(programs, "VOCABULARY_PIECE", 25)
    tokens = np.array(Letters().prompt(asked[0].messages))
    pieces = programs.score.__wrapped__(CONFIG, Execution(), engine.params, tokens)
    assert np.abs(np.asarray(pieces.logprobs) - completions["0"].prompt_logprobs[1:]).max() < 5e-4


def test_stop_ids_and_strings_end_at_the_same_place_however_many_tokens_come_at_once(engine):
    whole = ask(engine, request(temperature=2.0, seed=3))["x"]
    text = whole.text
    assert len(whole.token_ids) == 16 and "<think>" not in text
    for place in range(3, 12):
        target = text[place : place + 2]
        stopped = ask(engine, request(temperature=2.0, seed=3, stop=("no such thing", target)))["x"]
        assert (stopped.text, stopped.finish) == (text[: text.index(target)], "stop")
        upto = next(n for n in range(17) if target in Letters().decode(whole.token_ids[:n]))
        assert stopped.token_ids == whole.token_ids[:upto]
        token = whole.token_ids[place]
        ended = ask(engine, request(temperature=2.0, seed=3, stop_ids=(token,)))["x"]
        assert ended.token_ids == whole.token_ids[: whole.token_ids.index(token)] and ended.finish == "stop"


@pytest.mark.parametrize(
    ("text", "form", "inside", "expected"),
    [
        ("ab STOP", THINK, False, (3, False)),
        ("<think>ab STOP", THINK, False, (None, True)),
        ("<think>ab STOP</think>c STOP", THINK, False, (24, False)),
        ("ab STOP</think>c STOP", THINK, True, (17, False)),
        ("a<think>STOP</think>b<think>STOP", THINK, False, (None, True)),
        ("thought STOP\nmore", PLAIN, True, (None, True)),
        ("thought STOP\n \nSTOP", PLAIN, True, (15, False)),
    ],
)
def test_a_stop_string_acts_on_the_answer_alone(text, form, inside, expected):
    assert find_stop(text, ("STOP",), form, inside) == expected


def test_reasoning_over_its_budget_is_closed_and_goes_on_as_if_it_had_been_written(engine):
    begun = (Message(role="user", content="ABC"), Message(role="assistant", content="", reasoning="DE"))
    asked = Request(
        id="x", messages=begun, max_new_tokens=20, temperature=2.0, seed=1, reasoning_budget=6, logprobs=True, **CUTS
    )
    free = ask(engine, dataclasses.replace(asked, reasoning_budget=None))["x"]
    assert 60 not in free.token_ids[:6], "the model does not close by itself"
    prompt = Letters().prompt(begun[:1]) + Letters().continuation("<think>\nDE")
    assert free.prompt_tokens == len(prompt)
    closed = ask(engine, asked)["x"]
    closing = tuple(Letters().continuation("\n</think>\n\n"))
    assert closed.forced_at == 6 and free.forced_at is None
    assert closed.token_ids[:10] == free.token_ids[:6] + closing
    assert len(closed.token_ids) == len(closed.logprobs) == 20 and closed.logprobs[6:10] == (0.0,) * 4
    # What follows is what the same prompt would have got with all this in it.
    again = Request(id="x", messages=(), prompt_ids=(*prompt, *closed.token_ids[:10]), max_new_tokens=10)
    again = dataclasses.replace(again, temperature=2.0, seed=1, logprobs=True, **CUTS)
    assert ask(engine, again)["x"].token_ids == closed.token_ids[10:]
    # Whatever else there is, and with a budget that leaves room for a part of the delimiter alone.
    crowd = [request(f"{i}", temperature=1.0, seed=i, max_new_tokens=9 + i) for i in range(5)]
    assert ask(engine, *crowd, asked)["x"].token_ids == closed.token_ids
    short = ask(engine, dataclasses.replace(asked, max_new_tokens=8))["x"]
    assert (short.token_ids, short.finish) == (closed.token_ids[:8], "length")


def test_a_budget_leaves_answers_alone():
    generated = Generated(request=request(reasoning_budget=3, max_new_tokens=30), renderer=Letters())
    assert not generated.take(Letters().continuation("<think>A</think>BCDEFGH"), ())
    assert generated.forced_at is None
    late = Generated(request=request(reasoning_budget=3, max_new_tokens=30), renderer=Letters())
    assert late.take(Letters().continuation("ABCDE<think>FG"), ()) and late.forced_at == 6


def test_where_the_model_begins_inside_of_reasoning():
    def begins(*messages, form=THINK):
        return begins_inside(Letters(form), Request(id="x", messages=messages, max_new_tokens=1))

    user = Message(role="user", content="A")
    assert not begins(user) and begins(user, form=PLAIN)
    assert begins(Message(role="user", content="A<think>\n")), "as a template that opens it does"
    assert not begins(Message(role="user", content="A<think>B"))
    assert begins(user, Message(role="assistant", content="", reasoning="B"))
    assert not begins(user, Message(role="assistant", content="C", reasoning="B"))
    assert not begins(user, Message(role="assistant", content="C\n\nD"), form=PLAIN)


def test_nothing_compiles_after_warm_up(engine):
    compiled = [programs.prefill, programs.insert, programs.begin, programs.advance, programs.score]
    sizes = [program._cache_size() for program in compiled]
    for length in (1, 17, 30):
        prompt = ("ABCDE" * 6)[:length]
        ask(engine, request(prompt=prompt), request("y", prompt, prompt_logprobs=True))
        ask(engine, request(prompt=prompt, temperature=1.0, top_p=0.5, top_k=3, logprobs=True, stop=("AB",)))
        ask(engine, request(prompt=prompt, stop_ids=(3,), reasoning_budget=2))
    assert [program._cache_size() for program in compiled] == sizes


def test_a_request_that_cannot_be_is_refused(engine):
    for settings in ({"top_k": -1}, {"min_p": 1.5}, {"reasoning_budget": 0}, {"stop": ("",)}):
        with pytest.raises(UserError, match=f"'x': {next(iter(settings))}"):
            request(**settings)
    with pytest.raises(UserError, match="both messages and prompt_ids"):
        request(prompt_ids=(1,))
    with pytest.raises(UserError, match="prompt_ids must be in the model's vocabulary, 0 to 60"):
        ask(engine, Request(id="x", messages=(), prompt_ids=(61,), max_new_tokens=2))


@pytest.mark.parametrize(
    ("finish", "status"), [("stop", "ok"), ("length", "truncated_answer"), ("content_filter", "content_filter")]
)
def test_how_an_answer_ended_is_told_apart(finish, status):
    split = taken_apart("<think>\nhm\n</think>\n\nyes", finish, THINK)
    assert (split.reasoning, split.answer, split.status) == ("hm", "yes", status)
