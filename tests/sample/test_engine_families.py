"""The engine's greedy output against transformers' for every family, with short prompts and windows that are left."""

import family_cases
import numpy as np
import pytest

from rational_jax import hub
from rational_jax.models import Execution
from rational_jax.sample import Engine, Request
from rational_jax.text.chat import Message

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

# One step of ours and theirs differ by at most the gate's tolerance of the largest logit, each of two logits may move
# towards the other, so a choice between logits closer than twice that is a tie.
TIE = 2 * hub.TOLERANCE
NEW = 14
PROMPTS = (18, 25, 32)  # one bucket, so one program; decoding goes on beyond most windows of the cases


class Numbers:
    """A renderer whose texts are token ids in decimal."""

    stop_ids = ()

    def prompt(self, messages):
        return [int(word) for word in messages[-1].content.split()]

    def decode(self, tokens):
        return " ".join(str(token) for token in tokens)


# Each takes seconds to compile: by default a plain family, one with windows and soft caps, and one with experts.
QUICK = ("llama", "gemma2", "mixtral")


@pytest.mark.parametrize(
    ("family", "case"),
    [pytest.param(*pair, marks=() if pair[0] in QUICK else pytest.mark.slow) for pair in family_cases.FIRST],
)
def test_greedy_equals_transformers_up_to_the_first_tie(family, case, tmp_path):
    theirs = family_cases.make(family, case, tmp_path)
    config = hub.load_config(tmp_path)
    engine = Engine(
        config, hub.load_params(tmp_path, config), Numbers(), slots=3, max_length=48, execution=Execution(scan=True)
    )
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, family_cases.SIZES["vocab_size"], length) for length in PROMPTS]
    requests = [
        Request(id=str(i), messages=(Message(role="user", content=" ".join(map(str, p))),), max_new_tokens=NEW)
        for i, p in enumerate(prompts)
    ]
    completions = {completion.id: completion for completion in engine.generate(requests)}
    compared = 0
    for i, prompt in enumerate(prompts):
        ours = list(completions[str(i)].token_ids)
        with torch.no_grad():
            out = theirs.generate(
                torch.tensor(prompt[None]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=NEW,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                output_logits=True,
                return_dict_in_generate=True,
            )
        logits = np.stack([step[0].numpy() for step in out.logits])
        top = np.sort(logits, axis=-1)
        close = top[:, -1] - top[:, -2] <= TIE * np.abs(logits).max()
        upto = int(np.argmax(close)) if close.any() else NEW
        assert ours[:upto] == out.sequences[0, len(prompt) :].tolist()[:upto]
        compared += upto
    # Ties are rare: a tolerance that calls everything one would compare nothing.
    assert compared >= 0.8 * NEW * len(prompts)
