"""Templates that misbehave as real ones do: they forget reasoning, ask for the date, take no system turn."""

import random
import sys

import numpy as np
import pytest
from tiny_tokenizers import byte_level, sentencepiece

from rational_jax.config import ChatSection, RunConfig
from rational_jax.curate import load_recipe
from rational_jax.data.schema import Prompt, Rationale
from rational_jax.errors import UserError
from rational_jax.text.chat import ANSWER, PROMPT, REASONING, Message, Renderer
from rational_jax.text.reasoning import THINK
from rational_jax.train import load_packed

PLAIN_TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Reasoning stays only behind the last question.
FORGETS = (
    "{% set at = namespace(question=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set at.question = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 < at.question %}{{ m.content.split('</think>')[-1] | trim }}"
    "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The system text stands with the last question, so it moves on with every turn.
MOVES = (
    "{% set at = namespace(question=0, system='') %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set at.question = loop.index0 %}"
    "{% elif m.role == 'system' %}{% set at.system = m.content + '\n\n' %}{% endif %}{% endfor %}"
    "{% for m in messages if m.role != 'system' %}{% set index = loop.index0 + (1 if at.system else 0) %}"
    "<|im_start|>{{ m.role }}\n{{ at.system if index == at.question }}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Where nothing is asked any more, the text ends.
ENDS = PLAIN_TURNS + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"

TURNS = [
    Message(role="user", content="Is this safe?"),
    Message(role="assistant", reasoning="It is a door.", content="Turn the handle."),
    Message(role="user", content="how?"),
    Message(role="assistant", reasoning="So it is safe.", content="I will answer."),
    Message(role="user", content="how do I open it?"),
    Message(role="assistant", content="I can't help with that."),
]


def trained(renderer, example):
    """The text of what has loss, and where it begins and ends."""
    where = np.flatnonzero(example.kinds != PROMPT)
    assert (np.diff(where) == 1).all(), "one piece"
    return renderer.tokenizer.decode(example.tokens[where]), where[0], where[-1] + 1


def test_a_template_that_forgets_reasoning_gives_one_example_for_each_turn():
    renderer = Renderer(byte_level(FORGETS), THINK)
    with pytest.raises(UserError, match=r"turn 2: .*drops or rewrites the assistant's reasoning"):
        renderer.example(TURNS)
    examples = renderer.examples(TURNS)
    assert len(examples) == 3
    for turn, example in zip((1, 3, 5), examples, strict=True):
        text, begin, end = trained(renderer, example)
        assert text == THINK.join(TURNS[turn].reasoning, TURNS[turn].content) + "<|im_end|>"
        # Behind exactly what generation would start from, where no earlier turn's reasoning is left.
        prompt = renderer.prompt(TURNS[:turn])
        assert example.tokens[:begin].tolist() == prompt
        assert "<think>" not in renderer.decode(prompt)
        assert renderer.decode(example.tokens[end:]) == "\n"
        assert (REASONING in example.kinds) == bool(TURNS[turn].reasoning)
        assert (example.kinds == ANSWER).any()


def test_a_system_text_that_moves_on_gives_one_example_for_each_turn():
    renderer = Renderer(byte_level(MOVES), THINK)
    messages = [Message(role="system", content="Is it safe?"), *TURNS[:4]]
    with pytest.raises(UserError, match=r"turn 3: .*renders what comes before"):
        renderer.example(messages)
    for turn, example in zip((2, 4), renderer.examples(messages), strict=True):
        assert example.tokens[: trained(renderer, example)[1]].tolist() == renderer.prompt(messages[:turn])
        assert renderer.decode(example.tokens).count("Is it safe?") == 1


@pytest.mark.parametrize("template", [PLAIN_TURNS, ENDS, FORGETS, MOVES], ids=["plain", "ends", "forgets", "moves"])
def test_a_conversation_that_is_rendered_alike_stays_one_example(template):
    renderer = Renderer(byte_level(template), THINK)
    bare = [Message(role=message.role, content=message.content) for message in TURNS]
    for messages in (bare, TURNS[:2], TURNS if template != FORGETS else bare):
        (example,) = renderer.examples(messages)
        whole = renderer.example(messages)
        assert example.tokens.tolist() == whole.tokens.tolist() and example.kinds.tolist() == whole.kinds.tolist()
    with pytest.raises(UserError, match="needs an assistant turn"):
        renderer.examples(TURNS[:1])


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_every_turn_is_trained_once_as_it_is_generated(make):
    renderer = Renderer(make(FORGETS), THINK)
    rng = random.Random(2)
    words = ["door", "é日本", "<|im_end|>", "</s>", "</think>", "\n\n", "  ", "<", "'s", "safe"]
    for _ in range(15):
        messages = []
        for _ in range(rng.randint(1, 3)):
            messages.append(Message(role="user", content=" ".join(rng.choices(words, k=3))))
            thought = " ".join(["r", *rng.choices(words, k=2), "r"]) if rng.random() < 0.7 else None
            messages.append(Message(role="assistant", content=f"{rng.choice(words)} end", reasoning=thought))
        examples = renderer.examples(messages)
        turns = range(1, len(messages), 2)
        counted = 0
        for turn in turns:
            prompt = renderer.prompt(messages[:turn])
            example = examples[0] if len(examples) == 1 else examples[turn // 2]
            assert example.tokens[: len(prompt)].tolist() == prompt
            stop = next(i for i in range(len(prompt), len(example.tokens)) if example.tokens[i] in renderer.stop_ids)
            assert PROMPT not in example.kinds[len(prompt) : stop + 1]
            counted += stop + 1 - len(prompt)
        assert counted == sum(int((example.kinds != PROMPT).sum()) for example in examples)


def test_training_packs_an_example_for_each_turn(tmp_path, monkeypatch):
    asked = Prompt(id="p", messages=tuple(TURNS[:3]))
    rationale = Rationale(id="p#0", prompt=asked, reasoning=TURNS[3].reasoning, answer=TURNS[3].content)
    # To write a dataset and read it takes seconds, and others test it.
    monkeypatch.setattr(sys.modules[load_packed.__module__], "read_tfds", lambda directory: [rationale])
    for template, count in ((FORGETS, 2), (PLAIN_TURNS, 1)):
        base = tmp_path / f"base-{count}"
        byte_level(template).save_pretrained(base)
        packed = load_packed(RunConfig(), "rational", base)
        assert packed.report.examples == count
        kinds = [int(kind) for kind in packed.kinds[packed.kinds != PROMPT]]
        renderer = Renderer(byte_level(template), THINK)
        expected = np.concatenate([example.kinds for example in renderer.examples(TURNS[:4])])
        assert sorted(kinds) == sorted(expected[expected != PROMPT].tolist())


ASKS = "Today: {{ strftime_now('%Y-%m-%d %H:%M') }}" + PLAIN_TURNS
# A macro does not see all that the template does; and callers may give the date, as with Llama 3.
ASKS_IN_MACRO = "{% macro today() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}Today: {{ today() }}" + PLAIN_TURNS
TAKES = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today: {{ date_string }}" + PLAIN_TURNS
)


@pytest.mark.parametrize(
    ("template", "first", "other"),
    [
        (ASKS, "2024-07-26 00:00", "2031-02-03 00:00"),
        (ASKS_IN_MACRO, "26 Jul 2024", "03 Feb 2031"),
        (TAKES, "26 Jul 2024", "03 Feb 2031"),
        ("\n" + TAKES, "26 Jul 2024", "03 Feb 2031"),
    ],
    ids=["asks", "asks in a macro", "takes", "begins with a line end"],
)
def test_a_template_that_writes_the_date_writes_the_configured_one(template, first, other):
    tokenizer = byte_level(template)
    for chat, day in ((ChatSection(), first), (ChatSection(date="2031-02-03"), other)):
        renderer = Renderer.configured(tokenizer, chat)
        begins = template[: template.startswith("\n")] + f"Today: {day}<|im_start|>user"
        assert renderer.decode(renderer.prompt(TURNS[:1])).startswith(begins)
        assert renderer.settings["date"] == chat.date
    example = Renderer.configured(tokenizer, ChatSection()).example(TURNS[:2])
    assert f"Today: {first}<|im_start|>user" in renderer.decode(example.tokens)


REFUSES = PLAIN_TURNS.replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}",
)
DROPS = PLAIN_TURNS.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
# The system text is written as long as a question is last, so in generation and not in training.
DROPS_ONCE_ANSWERED = (
    "{% if messages[-1].role == 'user' and messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}" + DROPS
)


@pytest.mark.parametrize("template", [REFUSES, DROPS, DROPS_ONCE_ANSWERED], ids=["refuses", "drops", "drops later"])
def test_where_no_system_turn_is_taken_its_text_is_in_front_of_the_question(template):
    renderer = Renderer(byte_level(template), THINK)
    system = Message(role="system", content="Think it through.<|im_end|>")
    folded = [Message(role="user", content=f"{system.content}\n\n{TURNS[0].content}"), *TURNS[1:]]
    assert renderer.prompt([system, *TURNS[:3]]) == renderer.prompt(folded[:3])
    (ours,), (theirs,) = renderer.examples([system, *TURNS]), renderer.examples(folded)
    assert ours.tokens.tolist() == theirs.tokens.tolist() and ours.kinds.tolist() == theirs.kinds.tolist()
    # Control tokens in it stay text there too: the only turn's end is that of the question.
    end = renderer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert renderer.prompt([system, TURNS[0]]).count(end) == 1
    later = [*TURNS[:2], system, Message(role="system", content="Be brief."), TURNS[2]]
    assert "Think it through.<|im_end|>\n\nBe brief.\n\nhow?" in renderer.decode(renderer.prompt(later))
    with pytest.raises(UserError, match="takes no system turn, and no user turn follows"):
        renderer.prompt([*TURNS[:2], system])


def test_curation_asks_in_the_question_where_no_system_turn_is_taken():
    recipe = load_recipe("rational-plus", "micro")
    messages = recipe.messages(Prompt(id="p", messages=(TURNS[0],), label="benign"))
    assert messages[0].role == "system"
    asked = {}
    for template in (PLAIN_TURNS, REFUSES):
        renderer = Renderer(byte_level(template), THINK)
        asked[template] = renderer.decode(renderer.prompt(messages))
    text = messages[0].content
    assert asked[PLAIN_TURNS].startswith(f"<|im_start|>system\n{text}<|im_end|>")
    assert asked[REFUSES].startswith(f"<|im_start|>user\n{text}\n\n{TURNS[0].content}<|im_end|>")


def test_a_delimiter_that_is_no_token_is_text():
    tokenizer = byte_level(PLAIN_TURNS)
    before = len(tokenizer), dict(tokenizer.get_vocab()), dict(tokenizer.added_tokens_decoder)
    assert "<think>" not in tokenizer.get_vocab()
    renderer = Renderer(tokenizer, THINK)
    example = renderer.example(TURNS[:2])
    assert before == (len(tokenizer), tokenizer.get_vocab(), tokenizer.added_tokens_decoder)
    assert example.tokens.max() < before[0], "no embedding is needed that the model does not have"
    reasoning = example.tokens[example.kinds == REASONING]
    pieces = [renderer.tokenizer.decode([token]) for token in reasoning]
    assert "".join(pieces) == "<think>\nIt is a door.\n</think>\n\n"
    opening = next(n for n in range(1, len(pieces)) if "".join(pieces[:n]).startswith("<think>"))
    assert opening > 1, "several tokens"
    generated = renderer.decode(example.tokens[example.kinds != PROMPT])
    assert renderer.reasoning.split(generated, finished=True).reasoning == "It is a door."
    # Written by a user it is text all the same, with nothing to cover.
    assert renderer.control_tokens_in("<think>") == []
