"""What is sampled in training comes from the state of that step, on the mesh that trains."""

import jax
import jax.numpy as jnp
import pytest

from rational_jax import models
from rational_jax.config import load_config
from rational_jax.data.schema import Prompt
from rational_jax.errors import UserError
from rational_jax.parallel import make_mesh
from rational_jax.text.chat import Message
from rational_jax.train.program import make_program
from rational_jax.train.samples import Samples
from rational_jax.train.step import TrainState


class Numbers:
    """A renderer whose texts are token ids in decimal; nothing ends a turn."""

    stop_ids = (99,)

    def prompt(self, messages):
        return [int(word) for word in messages[-1].content.split()]

    def decode(self, tokens):
        return " ".join(str(token) for token in tokens)


def greedy(config, params, lora, prompt, count):
    """By the definition: the whole sequence again for each token."""

    @jax.jit
    def scores(params, tokens):
        model = models.bind(config, params, lora)
        return model.unembed(model(tokens)[0])

    tokens = [*prompt, *[0] * count]  # nobody looks ahead
    for place in range(len(prompt), len(tokens)):
        tokens[place] = int(scores(params, jnp.asarray([tokens]))[0, place - 1].argmax())
    return tokens[len(prompt) :]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_answers_are_those_of_the_state_that_is_shown(config, params, method):
    settings = load_config(None, [f"train.method={method}", "train.sequence_length=64", "model.attention=xla"])
    mesh = make_mesh(fsdp=2, tensor=2, devices=jax.devices()[:4])
    program = make_program(settings, config, mesh, "cpu", print)

    def placed(tree, like):
        return jax.tree.map(lambda x, leaf: jax.device_put(jnp.array(x), leaf.sharding), tree, like)

    written = {}
    prompts = [Prompt(id=f"p{n}", messages=(Message(role="user", content=f"3 {n} 5"),)) for n in range(3)]
    frozen = placed(params, program.frozen) if method == "lora" else {}
    samples = Samples(
        program,
        frozen,
        Numbers(),
        prompts,
        max_length=32,
        max_new_tokens=4,
        write=lambda step, name, text: written.update({(step, name): text}),
    )
    found = []
    for step, size in ((1, 0.0), (2, 0.3)):
        if method == "lora":
            factors = jax.tree.map(lambda x, s=size: x + s, models.init_lora(config, program.lora, jax.random.key(1)))
            whole, trained = models.combine(params, factors), placed(factors, program.trainable)
        else:
            whole = jax.tree.map(lambda x, s=size: x * (1 + s * jnp.cos(jnp.arange(x.size)).reshape(x.shape)), params)
            trained = placed(whole, program.trainable)
        assert samples(step, TrainState(trained, None, None)) == {}
        for n, prompt in enumerate(prompts):
            tokens = greedy(config, whole, program.lora, [3, n, 5], 4)
            assert written[step, f"samples/{prompt.id}"] == f"**3 {n} 5**\n\n{Numbers().decode(tokens)}"
            found.append(tokens)
    assert found[:3] != found[3:], "the two states answer alike, so nothing was tested"


def test_a_prompt_that_is_too_long_is_told_before_the_first_step(config, params):
    settings = load_config(None, ["train.method=full", "train.sequence_length=64", "model.attention=xla"])
    program = make_program(settings, config, make_mesh(devices=jax.devices()[:1]), "cpu", print)
    prompts = [Prompt(id="long", messages=(Message(role="user", content="3 " * 30),))]
    with pytest.raises(UserError, match=r"'long'.*exceed"):
        Samples(program, {}, Numbers(), prompts, max_length=32, max_new_tokens=4, write=print)


def test_a_batch_that_cannot_be_dealt_out_is_told_before_the_model_is_loaded(config):
    mesh = make_mesh(fsdp=4, devices=jax.devices()[:4])

    def program(platform, *sizes):
        return make_program(load_config(None, ["model.attention=xla", *sizes]), config, mesh, platform, print)

    with pytest.raises(UserError, match=r"batch_size=6 cannot be divided over 4 groups of devices: .* multiple of 4"):
        program("cpu", "train.batch_size=6")
    with pytest.raises(UserError, match=r"4 groups of devices in 3 micro-batches: .* multiple of 12"):
        program("cpu", "train.batch_size=16", "train.micro_batches=3")
    assert program("cpu", "train.batch_size=8", "train.micro_batches=8")
    with pytest.raises(UserError, match="multiple of 32"):
        program("tpu", "train.batch_size=8", "train.micro_batches=8")
