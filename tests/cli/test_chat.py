"""The terminal's side of a conversation."""

import io

import pytest
from rich.console import Console

from rational_jax.cli.chat import Chat, converse
from rational_jax.errors import UserError
from rational_jax.sample import Completion
from rational_jax.sample.conversation import Conversation, Decoding
from rational_jax.text.reasoning import THINK

REASONED = "<think>\nIt is \x1b[31mmild\u202e.\n</think>\n\nSure\x1b]0;title\x07, \x1b[2Jhere."


class Echo:
    """Answers everything with the same text."""

    def __init__(self, text, finish="stop"):
        self.text, self.finish, self.asked = text, finish, []

    def generate(self, requests):
        (request,) = requests
        self.asked.append(request)
        yield Completion(id=request.id, text=self.text, token_ids=(), finish=self.finish, prompt_tokens=1)


@pytest.fixture
def chat():
    """`chat(text)`: a chat, its backend, and a function that says what has been written since it was last asked."""

    def make(text=REASONED, **changes):
        backend, file = Echo(text, **changes), io.StringIO()
        talk = Conversation(backend, THINK, Decoding(max_new_tokens=9))

        def written():
            found = file.getvalue()
            file.seek(0)
            file.truncate()
            return found

        return Chat(talk, Console(file=file, highlight=False, width=80)), backend, written

    return make


def test_a_carriage_return_of_the_models_does_not_write_over_what_stands(chat):
    chat, _, written = chat("\rI can help!")
    chat.enter("hello")
    assert "\r" not in written()


def test_what_the_model_writes_cannot_reach_the_terminals_controls(chat):
    chat, _, written = chat()
    chat.enter("hello")
    assert written() == "It is mild.\n\nSure, here.\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_what_is_no_control_comes_out_as_it_was_written(terminal):
    """Also what would be an emoji's name or a style to the library that draws."""
    text, file = "x[:100:2] = y[bold]:smile:", io.StringIO()
    if not terminal:
        text += "\n\tif x:"
    talk = Conversation(Echo(text), THINK, Decoding(max_new_tokens=9))
    Chat(talk, Console(file=file, highlight=False, force_terminal=terminal, width=80)).enter("hello")
    assert file.getvalue() == text + "\n"


def test_reasoning_is_folded_and_shown_on_demand(chat):
    chat, _, written = chat()
    chat.enter("/fold")
    written()
    chat.enter("hello")
    assert "mild" not in written()
    chat.enter("/reasoning")
    assert written() == "It is mild.\n"


def test_commands_change_what_the_model_is_asked(chat):
    chat, backend, written = chat()
    chat.enter("/system Be brief.")
    chat.enter("/set temperature=0.5 max_new_tokens=40")
    assert "temperature=0.5" in written()
    chat.enter("hello")
    asked = backend.asked[-1]
    assert (asked.messages[0].content, asked.temperature, asked.max_new_tokens) == ("Be brief.", 0.5, 40)
    chat.enter("/retry")
    assert backend.asked[-1].messages == asked.messages and backend.asked[-1].seed != asked.seed
    chat.enter("/clear")
    chat.enter("again")
    assert [turn.content for turn in backend.asked[-1].messages] == ["Be brief.", "again"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/sett x=1", "no command /sett"),
        ("/set heat=1", "takes NAME=VALUE"),
        ("/set temperature=hot", "not a number"),
        ("/set", "max_new_tokens=9"),
        ("/undo", "nothing has been said"),
    ],
)
def test_wrong_commands_are_told_what_is_right(chat, line, said):
    with pytest.raises(UserError, match=said):
        chat()[0].enter(line)


def test_a_setting_out_of_range_is_an_error_of_that_turn_alone(chat):
    chat, backend, _ = chat()
    chat.enter("/set temperature=-1")
    with pytest.raises(UserError, match="temperature"):
        chat.enter("hello")
    chat.enter("/set temperature=0")
    chat.enter("hello")
    assert len(backend.asked) == 1


def test_a_cut_answer_says_so(chat):
    chat, _, written = chat("<think>\nso far", finish="length")
    chat.enter("hello")
    assert "max_new_tokens" in written()


def test_a_conversation_ends_with_the_input(chat, monkeypatch):
    lines = iter(["hello", "/nothing", "/quit", "never read"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    chat, backend, written = chat()
    chat.run()
    assert len(backend.asked) == 1 and "error: there is no command /nothing" in written()
    monkeypatch.setattr("builtins.input", lambda _: (_ for _ in ()).throw(EOFError))
    chat.run()


def test_one_prompt_may_come_from_standard_input(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    backend = Echo("Sure.")
    converse(Conversation(backend, THINK, Decoding(max_new_tokens=9)), "-")
    assert backend.asked[0].messages[-1].content == "from a pipe"
    assert capsys.readouterr().out == "Sure.\n"


@pytest.mark.parametrize(
    ("finish", "said"), [("length", "(cut off: sample.max_new_tokens=N"), ("content_filter", "filter"), ("stop", "")]
)
def test_what_is_to_be_said_of_the_answer_to_one_prompt_is_no_part_of_it(finish, said, capsys):
    converse(Conversation(Echo("Su", finish=finish), THINK, Decoding(max_new_tokens=9)), "hello")
    out, err = capsys.readouterr()
    assert out == "Su\n" and said in err and bool(err) == bool(said) and "/set" not in err


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_input_that_is_not_utf8_is_refused_and_a_conversation_goes_on(errors, monkeypatch, capsys):
    def stdin(raw):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), "utf-8", errors))

    backend = Echo("Sure.")
    talk = Conversation(backend, THINK, Decoding(max_new_tokens=9))
    stdin(b"caf\xe9")
    with pytest.raises(UserError, match="standard input is not UTF-8"):
        converse(talk, "-")
    with pytest.raises(UserError, match="--prompt is not UTF-8"):
        converse(talk, "caf\udce9")
    stdin(b"caf\xe9\n/system caf\xe9\nhello\n")
    converse(talk, None)
    assert [request.messages[-1].content for request in backend.asked] == ["hello"] and not talk.system
    assert capsys.readouterr().out.count("this line is not UTF-8") == 2
