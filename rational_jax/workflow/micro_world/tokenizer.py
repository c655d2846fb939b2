"""The micro model's tokenizer: byte-level BPE in which a name is its syllables and a common word is one token."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rational_jax.text.chat import ANSWER, PROMPT, Example
from rational_jax.workflow.micro_world.corpus import Corpus, Document, render
from rational_jax.workflow.micro_world.world import SYLLABLES, World

ROLE_TOKENS = ("<|begin|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
# Tokens of the vocabulary, but not special: decoding keeps them, and an engine can look for them.
THINK_TOKENS = ("<think>", "</think>")

CHAT_TEMPLATE = (
    "<|begin|>{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

# Documents that are read to collect the vocabulary's words.
_SURVEY = 20_000
_WORDS = r" ?\p{L}+(?:'\p{L}+)?| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def build_tokenizer(world: World) -> Any:
    """The fast tokenizer of a world, with its chat template. Nothing is added to a text beside its own tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    space = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(" ")[0][0]
    merges = _syllable_merges(space)
    pieces = [*alphabet, *(left + right for left, right in merges)]
    known = {*pieces, *ROLE_TOKENS, *THINK_TOKENS}
    words = [word for word in _words(world, splitter) if word not in known]
    tokens = [*ROLE_TOKENS, *THINK_TOKENS, *pieces, *words]
    # A word of the vocabulary is taken whole; merges are for names and for words from elsewhere.
    bpe = models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, ignore_merges=True)
    backend = Tokenizer(bpe)
    backend.pre_tokenizer = splitter
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ROLE_TOKENS])
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in THINK_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    check_names(tokenizer, world)
    return tokenizer


def examples(documents: Sequence[Document], tokenizer: Any) -> list[Example]:
    """Documents as training examples. Of a conversation only what the assistant says is learned, of a text all of it.

    What is learned has the kind ANSWER, reasoning included: pretraining makes no difference.
    """
    assistant = tokenizer.convert_tokens_to_ids("<|assistant|>")
    roles = tokenizer.convert_tokens_to_ids(["<|system|>", "<|user|>", "<|assistant|>"])
    made = []
    encoded = tokenizer([render(document) for document in documents], add_special_tokens=False)["input_ids"]
    for document, tokens in zip(documents, encoded, strict=True):
        tokens = np.array(tokens, np.int32)
        turns = np.cumsum(np.isin(tokens, roles))
        spoken = np.isin(turns, turns[tokens == assistant]) & (tokens != assistant)
        learned = spoken if document.messages else np.ones(len(tokens), bool)
        made.append(Example(tokens=tokens, kinds=np.where(learned, ANSWER, PROMPT).astype(np.uint8)))
    return made


def save_tokenizer(tokenizer: Any, directory: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja, readable by transformers 4 and 5."""
    tokenizer.save_pretrained(directory)
    file = directory / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    # transformers 5 writes a class name that older versions do not know; both know this one.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings.pop("backend", None)
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_names(tokenizer: Any, world: World) -> None:
    """Raises ValueError where a name does not fall apart into exactly its syllables, with or without a space before."""
    for thing in world.things:
        for text in (thing.name, f" {thing.name}"):
            pieces = [tokenizer.decode([token]).strip() for token in tokenizer.encode(text, add_special_tokens=False)]
            if pieces != list(thing.syllables):
                raise ValueError(f"{text!r} is tokenized as {pieces}, not as {list(thing.syllables)}")


def _syllable_merges(space: str) -> list[tuple[str, str]]:
    """Consonant and vowel, then the last consonant, then the space before: syllables cannot overlap this way."""
    starts = sorted({(syllable[0], syllable[1]) for syllable in SYLLABLES})
    ends = sorted((syllable[:2], syllable[2]) for syllable in SYLLABLES)
    return [*starts, *ends, *((space, syllable) for syllable in sorted(SYLLABLES))]


def _words(world: World, splitter: Any) -> list[str]:
    """The words of the corpus without the names, as the splitter cuts them, most frequent first."""
    names = {thing.name for thing in world.things}
    control = re.compile("|".join(map(re.escape, ROLE_TOKENS + THINK_TOKENS)))
    counts: Counter[str] = Counter()
    for document in itertools.islice(Corpus(world, seed=0).documents(), _SURVEY):
        for text in control.split(render(document)):
            counts.update(word for word, _ in splitter.pre_tokenize_str(text) if word.lstrip("Ġ") not in names)
    return sorted(counts, key=lambda word: (-counts[word], word))
