"""The text of a sequence as its tokens come, and where it ends."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from rational_jax.sample import Request
from rational_jax.sample.sequence import UNFINISHED, Generated
from rational_jax.text.reasoning import THINK

SAMPLES = (
    "He said: \u00ab d\u00e9j\u00e0 vu \u00bb \u2013 twice,  with  spaces.\n\nAnd   then? ",
    "\U0001f469\u200d\U0001f680 flew \U0001f1eb\U0001f1f7 \u6f22\u5b57\u4eee\u540d \u0939\u093f\u0928\u094d",
    " leading and trailing \t tabs\n  indented\n",
)


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(SAMPLES, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    return tokenizer


def sentencepiece_like() -> Tokenizer:
    """As Llama 2's and Mistral's: a space is a letter, the first one is dropped, unknown letters are their bytes."""
    vocabulary = {"<unk>": 0} | {f"<0x{byte:02X}>": 1 + byte for byte in range(256)}
    for piece in ("\u2581", "\u2581and", "\u2581He", "e", "an", "d", "\u2581said"):
        vocabulary[piece] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


class Renderer:
    stop_ids = ()
    reasoning = THINK

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.decoded = 0

    def decode(self, tokens):
        self.decoded += len(tokens)
        return self._tokenizer.decode(list(tokens))


def grown(renderer, tokens, stop=("\0never",)) -> Generated:
    request = Request(id="0", messages=(), max_new_tokens=10**6, stop=stop)
    generated = Generated(request=request, renderer=renderer)
    for token in tokens:
        if generated.take([token], ()):
            break
        yield generated
    yield generated


@pytest.mark.parametrize("make", [byte_level, sentencepiece_like])
@pytest.mark.parametrize("seed", range(6))
def test_the_text_that_grows_is_the_one_of_all_tokens(make, seed):
    rng, tokenizer = random.Random(seed), make()
    tokens = tokenizer.encode("".join(rng.choice(SAMPLES)[rng.randrange(20) :] for _ in range(6))).ids
    if seed > 2 and make is byte_level:  # bytes in any order, as no text has them
        tokens = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(200)]
    renderer = Renderer(tokenizer)
    for generated in grown(renderer, tokens):
        whole = renderer.decode(generated.tokens)
        if not whole.endswith(UNFINISHED):
            assert generated._text == whole


def test_a_stop_string_in_a_long_sequence_costs_no_square():
    """Decoding all of it at each token would decode eight million tokens for four thousand."""
    renderer = Renderer(byte_level())
    tokens = renderer._tokenizer.encode("and then " * 2000).ids[:4000]
    *_, generated = grown(renderer, tokens + renderer._tokenizer.encode("END of it").ids, stop=("END",))
    assert generated.finish == "stop"
    assert generated.text == renderer._tokenizer.decode(tokens)
    assert renderer.decoded < 20 * len(tokens)
