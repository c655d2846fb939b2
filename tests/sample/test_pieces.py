"""What is told of an answer while it grows, with tokens that are characters."""

import random
import types

import pytest

from rational_jax.sample import Completion
from rational_jax.sample.pieces import Pieces, Tokens
from rational_jax.text.reasoning import PLAIN, THINK


class Characters:
    def __init__(self, reasoning=THINK):
        self.reasoning = reasoning

    def decode(self, tokens):
        return "".join(map(chr, tokens))


def told(text: str, cuts: list[int], form=THINK, lead="", stops=()) -> list[tuple[str, str]]:
    """All pieces, the text having grown to these lengths one after the other."""
    writer, ids = Pieces(Characters(form), stops, lead), tuple(map(ord, text))
    pieces = [piece for cut in cuts for piece in writer.more(Tokens("0", ids[:cut]))]
    done = Completion(id="0", text=text, token_ids=ids, finish="stop", prompt_tokens=1)
    return pieces + writer.more(done)


def of(kind: str, pieces: list[tuple[str, str]]) -> str:
    return "".join(text for name, text in pieces if name == kind)


def test_what_may_be_a_stop_string_is_held_back():
    writer = Pieces(Characters(), ("END",))
    said = [writer.more(types.SimpleNamespace(token_ids=[ord(c) for c in "abcEN"[:n]])) for n in range(1, 6)]
    assert [piece for pieces in said for piece in pieces] == [("content", letter) for letter in "abc"]


@pytest.mark.parametrize(("form", "lead"), [(THINK, ""), (THINK, "<think>"), (PLAIN, "")])
@pytest.mark.parametrize("seed", range(8))
def test_pieces_add_up_to_the_reasoning_and_the_answer(seed, form, lead):
    """Wherever the text is cut, so also within a delimiter and right behind one."""
    rng = random.Random(seed)
    reasoning, answer = "It is < 3 </ b>. So\nfine", "Yes: <b>no</b> <thin\n\nand more"
    text = form.join(reasoning, answer).removeprefix(lead)
    cuts = sorted(rng.sample(range(len(text)), rng.choice([3, 12, len(text)])))
    pieces = told(text, cuts, form, lead)
    assert of("reasoning", pieces) == reasoning
    assert of("content", pieces) == answer


@pytest.mark.parametrize("seed", range(40))
def test_nothing_of_an_answer_is_kept_silent(seed):
    """Delimiters in any order: what is told as content ends with the answer as it is taken apart in the end."""
    rng = random.Random(seed)
    text = "".join(rng.choice(["<think>", "</think>", "\n\n", "no", "help ", "<", "thi", "/"]) for _ in range(12))
    cuts = sorted(rng.sample(range(len(text)), len(text) // 2))
    answer = THINK.split(text, finished=True).answer
    assert of("content", told(text, cuts)).endswith(answer)


def test_a_second_closing_delimiter_hides_nothing():
    text = "<think>a</think>First.</think>Second."
    assert of("content", told(text, list(range(len(text))))) == "First.\n\nSecond."
