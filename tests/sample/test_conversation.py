"""Conversations: what the model is asked at each turn, and that pieces add up to what it wrote."""

import jax
import pytest

from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.sample import Completion
from rational_jax.sample.conversation import Conversation, Decoding, open_conversation
from rational_jax.text.chat import Message
from rational_jax.text.reasoning import THINK


class Scripted:
    """A backend that answers in order and remembers what it was asked."""

    def __init__(self, *texts, finish="stop", inside=False):
        self.texts, self.finish, self.inside, self.asked = list(texts), finish, inside, []

    def generate(self, requests):
        (request,) = requests
        self.asked.append(request)
        text = self.texts.pop(0)
        made = {"id": request.id, "text": text, "token_ids": (), "finish": self.finish, "prompt_tokens": 1}
        yield Completion(**made, begins_inside=self.inside)


def conversation(*texts, system="", **changes):
    backend = Scripted(*texts, **changes)
    return backend, Conversation(backend, THINK, Decoding(max_new_tokens=9), system)


def test_turns_are_remembered_with_reasoning_apart_and_the_system_prompt_first():
    backend, talk = conversation("<think>\nmild\n</think>\n\nSure.", "Bye.", system="be kind")
    assert list(talk.say("hello")) == [("reasoning", "mild"), ("content", "Sure.")]
    assert list(talk.say("and?")) == [("content", "Bye.")]
    first, second = backend.asked
    assert first.messages == (Message(role="system", content="be kind"), Message(role="user", content="hello"))
    assert second.messages == (
        *first.messages,
        Message(role="assistant", content="Sure.", reasoning="mild"),
        Message(role="user", content="and?"),
    )
    assert first.seed != second.seed and first.max_new_tokens == 9


def test_reasoning_that_the_template_opened_is_reasoning():
    _, talk = conversation("why\n</think>\n\nyes", "never closed", inside=True)
    assert list(talk.say("hello")) == [("reasoning", "why"), ("content", "yes")]
    assert list(talk.say("and?")) == [("reasoning", "never closed"), ("content", "")]


def test_an_answer_that_was_stopped_is_no_part_of_the_conversation():
    _, talk = conversation("<think>\nmild\n</think>\n\nSure.", "Again.")
    pieces = talk.say("hello")
    next(pieces)
    pieces.close()
    assert talk.turns == []
    list(talk.say("hello"))
    assert [turn.content for turn in talk.turns] == ["hello", "Again."]


def test_undo_gives_the_question_back_and_refuses_where_there_is_none():
    _, talk = conversation("Sure.")
    list(talk.say("hello"))
    assert talk.undo() == "hello"
    assert talk.turns == []
    with pytest.raises(UserError, match="nothing"):
        talk.undo()


def test_one_conversation_opens_where_slots_lie_over_several_devices(monkeypatch):
    """Eight of them, over which the heads of the micro model do not divide: one slot cannot be cut."""
    config = RunConfig.model_validate({"engine": {"max_length": 192}, "model": {"attention": "reference"}})
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    engine = open_conversation(config)._backend.engine
    over = engine.mesh.size // engine.mesh.shape["tensor"]
    assert over > 1 and engine.slots == jax.local_device_count()
    monkeypatch.undo()
    assert open_conversation(config)._backend.engine.slots == 1
