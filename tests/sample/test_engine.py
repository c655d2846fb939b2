"""The engine against the full forward pass and transformers, and against itself under every circumstance."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_llama

from rational_jax import hub, models
from rational_jax.errors import UserError
from rational_jax.models import Execution, bind
from rational_jax.parallel import AxisRules, make_mesh, shardings
from rational_jax.sample import Engine, Rejected, Request, derive_seed, programs
from rational_jax.sample import engine as engine_module
from rational_jax.sample.sampling import next_tokens
from rational_jax.text.chat import Message

CONFIG = tiny_llama(vocab_size=61, max_positions=64, tie_embeddings=False)
SLOTS, MAX_LENGTH, STOP = 4, 48, 60


class Numbers:
    """A renderer whose texts are token ids in decimal."""

    stop_ids = (STOP,)

    def prompt(self, messages):
        return [int(word) for word in messages[-1].content.split()]

    def decode(self, tokens):
        return " ".join(str(token) for token in tokens)


@pytest.fixture(scope="module")
def params():
    # Ten times the usual deviation, so that attention and layers matter to the logits.
    tree = models.init_params(CONFIG, jax.random.key(0))
    return jax.tree.map(lambda x: x * 10 if x.std() > 0 else x, tree)


def make_engine(params, renderer=None, **changes):
    settings = dict(slots=SLOTS, max_length=MAX_LENGTH, steps_per_dispatch=4, execution=Execution(scan=False)) | changes
    return Engine(CONFIG, params, renderer or Numbers(), **settings)


@pytest.fixture(scope="module")
def engine(params):
    engine = make_engine(params)
    engine.warm_up([8, 24])
    engine.warm_up([8, 24], top_p=True)
    return engine


def request(name, prompt, **settings):
    message = Message(role="user", content=" ".join(str(token) for token in prompt))
    return Request(id=name, messages=(message,), **({"max_new_tokens": 12} | settings))


def many(count, *, seed=0, **settings):
    """Requests with prompts of 1 to 24 tokens and budgets of 1 to 16."""
    rng = np.random.default_rng(seed)
    return [
        request(
            str(i),
            rng.integers(0, STOP, rng.integers(1, 25)),
            **({"max_new_tokens": int(rng.integers(1, 17)), "seed": derive_seed(seed, i)} | settings),
        )
        for i in range(count)
    ]


def run(engine, requests):
    return {completion.id: completion for completion in engine.generate(requests)}


@jax.jit
def full_logits(params, tokens):
    decoder = bind(CONFIG, params)
    hidden, _ = decoder(tokens, execution=Execution(attention="reference"))
    return decoder.unembed(hidden)


def logits_of(params, req, completion):
    """Logits `[tokens, V]` that the full pass gives at every place where the engine chose a token."""
    sequence = Numbers().prompt(req.messages) + list(completion.token_ids)
    padded = np.zeros((1, MAX_LENGTH), np.int32)
    padded[0, : len(sequence)] = sequence
    return np.asarray(full_logits(params, padded))[0, completion.prompt_tokens - 1 : len(sequence) - 1]


# Prefill and decoding give logits within 1.1e-6 of the full pass's, relative to the largest (18 roundings of float32).
# Choices whose logits are closer than ten times that are ties.
TIE = 1.2e-5


def test_greedy_is_the_argmax_of_the_full_pass_at_every_step(engine, params):
    requests = many(11)
    completions = run(engine, requests)
    assert len(completions) == 11
    total = 0
    for req in requests:
        completion = completions[req.id]
        logits = logits_of(params, req, completion)
        chosen = logits[np.arange(len(logits)), list(completion.token_ids)]
        assert (logits.max(-1) - chosen <= TIE * np.abs(logits).max()).all()
        if completion.finish == "length":
            assert len(completion.token_ids) == req.max_new_tokens
        assert STOP not in completion.token_ids
        assert completion.text == Numbers().decode(completion.token_ids)
        total += len(logits)
    assert total > 60


def test_sampled_tokens_are_those_of_the_full_pass_with_the_key_of_seed_and_position(engine, params):
    requests = many(7, temperature=1.4, max_new_tokens=16)
    completions = run(engine, requests)
    for req in requests:
        completion = completions[req.id]
        logits = logits_of(params, req, completion)
        count = len(logits)
        assert count
        padded = np.zeros((16, CONFIG.vocab_size), np.float32)
        padded[:count] = logits
        expected = jax.jit(next_tokens)(
            padded,
            np.full(16, req.seed, np.uint32),
            completion.prompt_tokens + np.arange(16, dtype=np.int32),
            np.full(16, 1.4, np.float32),
        )
        assert completion.token_ids == tuple(np.asarray(expected)[:count].tolist())


def test_a_request_gets_the_same_tokens_whatever_surrounds_it(engine):
    for settings in ({}, {"temperature": 1.5}, {"temperature": 1.5, "top_p": 0.8}):
        requests = many(9, **settings)
        together = run(engine, requests)
        assert run(engine, requests[::-1]) == together
        # Behind two long requests each one comes into another slot, at another time.
        blockers = [request(f"blocker {i}", [1, 2, 3], max_new_tokens=40, temperature=2.0) for i in range(2)]
        crowded = run(engine, blockers + requests[3:] + requests[:3])
        assert {name: crowded[name] for name in together} == together
        for alone in requests[:3]:
            assert run(engine, [alone]) == {alone.id: together[alone.id]}


def test_neighbours_that_want_something_else_change_nothing(engine):
    greedy, drawn, nucleus = many(3), many(3, temperature=1.2), many(3, temperature=1.2, top_p=0.5)
    apart = [run(engine, group) for group in (greedy, drawn, nucleus)]
    assert apart[1] != apart[2]
    mixed = [
        request(f"{kind} {req.id}", Numbers().prompt(req.messages), **_settings(req))
        for req_of_each in zip(greedy, drawn, nucleus, strict=True)
        for kind, req in enumerate(req_of_each)
    ]
    together = run(engine, mixed)
    for kind, group in enumerate(apart):
        for name, completion in group.items():
            assert together[f"{kind} {name}"].token_ids == completion.token_ids


def _settings(req):
    return {name: getattr(req, name) for name in ("max_new_tokens", "temperature", "top_p", "seed")}


def test_logits_are_bit_equal_in_every_slot(params):
    decoder = bind(CONFIG, params)
    rng = np.random.default_rng(0)
    shape = (CONFIG.num_layers, 1, CONFIG.num_kv_heads, MAX_LENGTH, CONFIG.head_dim)
    row = rng.normal(size=shape).astype(np.float32)
    decode = jax.jit(lambda *arguments: decoder.unembed(decoder.decode(*arguments, execution=Execution(scan=False))[0]))
    for slots in (7, 64):
        # Only one slot holds the sequence; the others are full of noise and at other positions.
        rows = []
        for slot in sorted({0, 1, slots // 2, slots - 1}):
            noise = rng.normal(size=(shape[0], slots, *shape[2:])).astype(np.float32)
            noise[:, slot] = row[:, 0]
            tokens, places = rng.integers(0, STOP, slots), rng.integers(0, MAX_LENGTH, slots)
            tokens[slot], places[slot] = 7, 20
            cache = (models.KVCache(jnp.asarray(noise), jnp.asarray(noise)),)
            rows.append(np.asarray(decode(jnp.asarray(tokens), jnp.asarray(places), cache))[slot])
        assert all(np.array_equal(rows[0], other) for other in rows[1:])


def test_a_prompt_is_prefilled_to_the_same_bits_in_every_row(params):
    rng = np.random.default_rng(0)
    tokens, lengths = rng.integers(0, STOP, (SLOTS, 32), np.int32), np.full(SLOTS, 32, np.int32)
    tokens[:] = np.where(np.arange(SLOTS)[:, None] % 2 == 0, tokens[0], tokens)
    cache, logits = programs.prefill(CONFIG, Execution(), params, tokens, lengths)
    assert np.array_equal(logits[0], logits[2]) and not np.array_equal(logits[0], logits[1])
    assert np.array_equal(cache.k[:, 0], cache.k[:, 2]) and np.array_equal(cache.v[:, 0], cache.v[:, 2])
    # With other neighbours, and with other padding behind it.
    tokens[1:] = rng.integers(0, STOP, (SLOTS - 1, 32))
    tokens[0, 20:], lengths[0] = 0, 20
    padded = programs.prefill(CONFIG, Execution(), params, tokens, lengths)
    tokens[1:], tokens[0, 20:] = rng.integers(0, STOP, (SLOTS - 1, 32)), 7
    other = programs.prefill(CONFIG, Execution(), params, tokens, lengths)
    assert np.array_equal(padded[1][0], other[1][0])
    assert np.array_equal(padded[0].v[:, 0, :, :20], other[0].v[:, 0, :, :20])


def test_long_prompts_are_read_by_chunks_beside_short_ones(params, monkeypatch):
    """With windows that are shorter than a chunk in one layer, and none in the other."""
    config = dataclasses.replace(CONFIG, window=5, window_layers=(True, False))
    settings = dict(slots=3, max_length=MAX_LENGTH, steps_per_dispatch=4, execution=Execution(scan=False))
    rng = np.random.default_rng(5)
    requests = [
        request(str(n), rng.integers(0, STOP, n), max_new_tokens=6, prompt_logprobs=True) for n in (3, 16, 17, 39, 40)
    ]
    monkeypatch.setattr(engine_module, "CHUNK", 16)
    chunked = Engine(config, params, Numbers(), **settings)
    assert [chunked.bucket(n) for n in (16, 17)] == [16, MAX_LENGTH]
    by_chunks = run(chunked, requests)
    assert by_chunks == run(chunked, requests[::-1])
    decoder = bind(config, params)
    for req in requests:
        # Every choice is the best of the full pass, or as good up to rounding.
        prompt = Numbers().prompt(req.messages)
        sequence = prompt + list(by_chunks[req.id].token_ids)
        whole = decoder.unembed(decoder(jnp.array([sequence]))[0])[0]
        logits = np.asarray(whole)[len(prompt) - 1 : -1]
        chosen = logits[np.arange(len(logits)), list(by_chunks[req.id].token_ids)]
        assert (logits.max(-1) - chosen <= TIE * np.abs(logits).max()).all()
        exact = np.asarray(jax.nn.log_softmax(whole))[np.arange(len(prompt) - 1), prompt[1:]]
        none, *scored = by_chunks[req.id].prompt_logprobs
        assert none is None
        np.testing.assert_allclose(scored, exact, rtol=0, atol=TIE * np.abs(whole).max())


def test_samples_of_one_prompt_share_a_prefill_and_equal_those_asked_for_alone(engine):
    prompt = [3, 1, 4, 1, 5, 9]
    samples = [request(str(i), prompt, temperature=1.0, seed=derive_seed(0, "p", i)) for i in range(6)]
    before = engine.counters.prefills
    together = run(engine, samples)
    assert engine.counters.prefills == before + 1
    assert len({completion.token_ids for completion in together.values()}) == 6
    assert run(engine, samples[4:5])["4"] == together["4"]


def test_generation_stops_before_the_stop_token(engine, params):
    class Stopping(Numbers):
        stop_ids = (STOP,)

    requests = many(8, max_new_tokens=16)
    free = run(engine, requests)
    # A token that many of them produce, at different places, becomes the one that ends a turn.
    tokens = list(itertools.chain.from_iterable(completion.token_ids for completion in free.values()))
    common = max(set(tokens), key=lambda token: sum(token in c.token_ids for c in free.values()))
    Stopping.stop_ids = (common,)
    stopping = make_engine(params, renderer=Stopping())
    stopped = run(stopping, requests)
    places = set()
    for name, completion in stopped.items():
        whole = free[name].token_ids
        if common in whole:
            places.add(whole.index(common))
            assert (completion.token_ids, completion.finish) == (whole[: whole.index(common)], "stop")
        elif free[name].finish == "length":
            assert completion == free[name]
    assert len(places) > 1
    first = request("first", Numbers().prompt(requests[0].messages) + list(free["0"].token_ids[:3]))
    Stopping.stop_ids = (free["0"].token_ids[3],)
    stopping = make_engine(params, renderer=Stopping())
    completion = run(stopping, [first])["first"]
    assert (completion.token_ids, completion.text, completion.finish) == ((), "", "stop")


def test_a_budget_of_one_token_and_of_all_that_fits(engine):
    prompt = list(range(20))
    short, long = request("short", prompt, max_new_tokens=1), request("long", prompt, max_new_tokens=MAX_LENGTH - 20)
    completions = run(engine, [short, long])
    assert len(completions["short"].token_ids) == 1
    assert completions["short"].token_ids == completions["long"].token_ids[:1]
    assert completions["long"].finish in ("length", "stop")
    assert completions["short"].prompt_tokens == 20


def test_slots_are_refilled_while_others_go_on(engine):
    """Lengths that vary by 20 times leave few slots idle."""
    rng = np.random.default_rng(3)
    budgets = np.exp(rng.uniform(np.log(2), np.log(40), 60)).astype(int)
    requests = [request(str(i), [i % STOP], max_new_tokens=int(b), temperature=3.0) for i, b in enumerate(budgets)]
    before = engine.counters.steps, engine.counters.slot_steps
    assert len(run(engine, requests)) == 60
    steps, slot_steps = engine.counters.steps - before[0], engine.counters.slot_steps - before[1]
    assert slot_steps / (steps * SLOTS) > 0.9


def test_nothing_compiles_after_warm_up(engine):
    compiled = (programs.empty_slots, programs.prefill, programs.insert, programs.begin, programs.advance)
    sizes = [program._cache_size() for program in compiled]
    assert min(sizes) >= 1 and sizes[1] >= 2 and sizes[3] >= 2, "the count sees two buckets and two ways to sample"
    run(engine, many(8))
    run(engine, many(5, seed=1, temperature=1.0))
    run(engine, many(5, seed=2, temperature=1.0, top_p=0.5, max_new_tokens=1))
    assert [program._cache_size() for program in compiled] == sizes


def test_buckets_depend_on_the_length_alone(engine):
    buckets = [engine.bucket(length) for length in range(1, MAX_LENGTH + 1)]
    assert buckets == sorted(buckets)
    assert set(buckets) == {16, 32, 48}
    assert all(bucket >= length for length, bucket in enumerate(buckets, start=1))


def test_what_does_not_fit_is_refused_by_name_before_anything_is_generated(engine):
    before = engine.counters.prefills
    good = request("good", [1, 2])
    long = r"'long': 40 prompt tokens and max_new_tokens=9 exceed engine.max_length=48"
    with pytest.raises(Rejected, match=long) as caught:  # so that who asks many can leave these out
        engine.generate([good, request("long", [1] * 40, max_new_tokens=9), request("longer", [1] * 50)])
    assert caught.value.problems.keys() == {"long", "longer"}
    assert "exceed max_length=48" in caught.value.problems["longer"]
    with pytest.raises(UserError, match="'empty': the prompt is empty"):
        engine.generate([good, request("empty", [])])
    with pytest.raises(UserError, match="two requests have the id 'good'"):
        engine.generate([good, good])
    assert engine.counters.prefills == before
    assert list(engine.generate([])) == []


@pytest.mark.parametrize(
    "settings",
    [{"max_new_tokens": 0}, {"temperature": -0.1}, {"temperature": float("nan")}, {"top_p": 0.0}, {"seed": -1}],
    ids=str,
)
def test_a_request_that_cannot_be_is_refused(settings):
    with pytest.raises(UserError, match=f"'x': {next(iter(settings))}="):
        request("x", [1], **settings)


def test_an_engine_longer_than_the_model_is_refused(params):
    with pytest.raises(UserError, match=r"engine.max_length=65 exceeds the 64 positions"):
        make_engine(params, max_length=65)


def test_an_abandoned_run_leaves_no_trace(engine):
    requests = many(9, temperature=1.0)
    expected = run(engine, requests)
    started = engine.generate(many(9, seed=5, temperature=1.0))
    next(started)
    assert run(engine, requests) == expected
    started.close()


def test_slots_and_heads_lie_over_a_mesh(params):
    requests = many(6, max_new_tokens=5)  # few: pretended devices wait for each other in every layer
    mesh = make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
    abstract = models.abstract_params(CONFIG)
    rules = AxisRules(embed=None, vocab=None)
    placed = jax.device_put(params, shardings(mesh, rules, abstract, models.logical_axes(CONFIG)))
    # As many slots a device as the engine without a mesh has on its one.
    completions = run(make_engine(placed, slots=2 * SLOTS, mesh=mesh), requests)
    for req in requests:
        logits = logits_of(params, req, completions[req.id])
        chosen = logits[np.arange(len(logits)), list(completions[req.id].token_ids)]
        assert (logits.max(-1) - chosen <= TIE * np.abs(logits).max()).all()
    with pytest.raises(UserError, match=r"does not divide .* make it a multiple of 2"):
        make_engine(placed, slots=7, mesh=mesh)


def test_greedy_equals_transformers(engine, params):
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    reference = LlamaForCausalLM(LlamaConfig(**hub.write_config(CONFIG))).eval()
    weights = {}
    for path, row in hub.weight_table(CONFIG).items():
        leaf = params
        for key in path:
            leaf = leaf[key]
        weights |= {piece.name: torch.tensor(np.asarray(leaf)[piece.index]) for piece in row.pieces()}
    reference.load_state_dict(weights)
    requests = many(6, max_new_tokens=16)
    completions = run(engine, requests)
    compared = 0
    for req in requests:
        prompt = torch.tensor([Numbers().prompt(req.messages)])
        with torch.no_grad():
            out = reference.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=16,
                do_sample=False,
                eos_token_id=STOP,
                pad_token_id=STOP,
                output_logits=True,
                return_dict_in_generate=True,
            )
        theirs = [token for token in out.sequences[0, prompt.shape[1] :].tolist() if token != STOP]
        ours = list(completions[req.id].token_ids)
        logits = np.stack([step[0].numpy() for step in out.logits])
        top = np.sort(logits, axis=-1)
        close = top[:, -1] - top[:, -2] <= TIE * np.abs(logits).max()
        upto = int(np.argmax(close)) if close.any() else len(logits)
        assert ours[:upto] == theirs[:upto]
        compared += upto
    assert compared > 60
