import pytest

from rational_jax.data.schema import Prompt, Rationale
from rational_jax.errors import UserError
from rational_jax.text.chat import Message


def test_prompt_round_trip_with_everything():
    prompt = Prompt(
        id="p-1",
        messages=(
            Message(role="system", content="Be brief."),
            Message(role="user", content="Wie öffnet man  das?\u2028"),
            Message(role="assistant", content="So.", reasoning="harmlos"),
            Message(role="user", content="日本 <|end|>"),
        ),
        label="benign",
        source="x",
        category="c",
        style="slang",
        base_id="p-0",
        meta={"premise": "tool"},
    )
    assert Prompt.from_json(prompt.to_json()) == prompt
    assert prompt.text == "日本 <|end|>"


def test_short_rows_and_unknown_columns():
    row = {"id": 7, "text": "hi", "label": None, "category": 2, "split": "test", "turns": None, "n": 3}
    hi, meta = Message(role="user", content="hi"), {"split": "test", "n": "3"}
    assert Prompt.from_json(row) == Prompt(id="7", messages=(hi,), category="2", meta=meta)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1], "expected an object with fields, got a list"),
        ("x", "got a text"),
        ({"text": "x"}, "id must be a text"),
        ({"id": " ", "text": "x"}, "id must be"),
        ({"id": True, "text": "x"}, "id must be"),
        ({"id": "a", "text": "x", "label": "harmfull"}, "label 'harmfull' is not one of .*did you mean 'harmful'"),
        ({"id": "a", "text": "x", "label": "Benign"}, "did you mean 'benign'"),
        ({"id": "a", "text": "x", "label": 3}, "label 3"),
        ({"id": "a", "text": "x", "lable": "benign"}, "'lable' is not a field; did you mean 'label'"),
        ({"id": "a", "message": []}, "'message' is not a field; did you mean 'messages'"),
        ({"id": "a"}, "exactly one of .* this row has none"),
        ({"id": "a", "text": "x", "prompt": "x"}, "this row has prompt and text"),
        ({"id": "a", "text": " \n"}, "the prompt is empty"),
        ({"id": "a", "text": ["x"]}, "text must be a text, got a list"),
        ({"id": "a", "prompt": 42}, "prompt must be a text, got a number"),
        ({"id": "a", "text": True}, "text must be a text, got true/false"),
        ({"id": "a", "text": "\ud800"}, "half of a surrogate pair"),
        ({"id": "a", "messages": []}, "messages must be a list of turns"),
        ({"id": "a", "messages": ["x"]}, "turn 1: expected an object"),
        ({"id": "a", "messages": [{"role": "user", "content": "x", "text": "y"}]}, "turn 1: 'text' is not a field"),
        ({"id": "a", "messages": [{"role": "human", "content": "x"}]}, "turn 1: role 'human'"),
        ({"id": "a", "messages": [{"role": "user", "content": None}]}, "turn 1: content must be a text, got nothing"),
        ({"id": "a", "messages": [{"role": "user", "content": 1.5}]}, "turn 1: content must be a text, got a number"),
        ({"id": "a", "messages": [{"role": "assistant", "content": "x"}]}, "ends with a user's turn"),
        ({"id": "a", "text": "x", "meta": [1]}, "meta must be an object"),
        ({"id": "a", "text": "x", "meta": {"k": {}}}, "meta.k must be a text"),
        ({"id": "a", "text": "x", "extra": [1]}, "extra must be a text, got a list"),
    ],
)
def test_bad_rows_say_where_and_what(row, message):
    with pytest.raises(UserError, match=rf"^f\.jsonl:3: .*{message}" if "turn 1" not in message else message):
        Prompt.from_json(row, "f.jsonl:3")


def rationale(**changes):
    prompt = Prompt(id="p", messages=(Message(role="user", content="q"),), label="harmful")
    fields = {"id": "p#0", "prompt": prompt, "reasoning": "r", "answer": "a", "recipe": "rational-plus", "sample": 1}
    return Rationale(**(fields | changes))


def test_rationale_round_trip():
    assert Rationale.from_json(rationale().to_json()) == rationale()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "rationall"}, "layout"),
        ({"sample": "1"}, "sample"),
        ({"reasoning": None}, "reasoning"),
        ({"answer": 3}, "answer"),
    ],
)
def test_rationale_refuses_bad_fields(change, message):
    with pytest.raises(UserError, match=message):
        Rationale.from_json(rationale().to_json() | change)
    row = rationale().to_json()
    del row["answer"]
    with pytest.raises(UserError, match="answer missing"):
        Rationale.from_json(row)


def test_training_messages_of_each_layout():
    question = Message(role="user", content="q")
    answer = lambda **changes: [question, Message(role="assistant", content="a", **changes)]  # noqa: E731
    assert rationale().training_messages() == answer(reasoning="r")
    assert rationale(layout="shuffled").training_messages() == answer(reasoning="r")
    assert rationale(layout="refusal").training_messages() == answer()
    assert rationale(layout="answer-first").training_messages() == answer(reasoning="r", answer_first=True)
