"""THE renderer: messages -> token ids, and which tokens are prompt, reasoning and answer.

Curation, training, generation and evaluation all use it, so what a model is trained on is what it is asked with. The
chat template is the tokenizer's own; nothing here knows a model family.
"""

import datetime
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jinja2
import numpy as np

from rational_jax.config import DATE, ChatSection
from rational_jax.errors import UserError
from rational_jax.storage import sha256_json
from rational_jax.text.reasoning import ReasoningFormat, format_named

PROMPT, REASONING, ANSWER = 0, 1, 2
"""What a token is part of. The delimiters belong to the reasoning, the end-of-turn token to the answer."""

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn. An assistant's `content` is the answer alone; `reasoning` is kept apart, without delimiters.

    `answer_first` puts the reasoning behind the answer: a control for experiments.
    """

    role: str
    content: str
    reasoning: str | None = None
    answer_first: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """A rendered conversation: `tokens` int32 [N] and `kinds` uint8 [N] (PROMPT, REASONING or ANSWER)."""

    tokens: np.ndarray
    kinds: np.ndarray


class Renderer:
    """Renders conversations with a tokenizer's chat template and one reasoning format.

    `tokenizer` is a fast `transformers` tokenizer with a chat template. No BOS is added beside the one that the
    template writes, and no token to the vocabulary: a delimiter that is not in it is several tokens of text.

    `date` (ISO 8601) is what a template is told where it asks for today's: otherwise a model would be trained on
    other tokens each day. Where a template refuses or drops a system turn, its text goes in front of the user turn
    that follows.

    Control tokens (the special tokens, the added tokens that the template writes, and delimiters that are one added
    token) that stand inside a message are text, not control: they are cut after their first character and tokenized
    in two pieces, so a user who writes "<|end|>" gets those characters and ends no turn. Roles are checked, because
    templates build tokens from them.

    Raises UserError where the tokenizer has no chat template or is not a fast one.
    """

    def __init__(self, tokenizer: Any, reasoning: ReasoningFormat, date: str = DATE):
        if not getattr(tokenizer, "is_fast", False):
            raise UserError("the tokenizer has no fast version (tokenizer.json), which tells where each token lies")
        if not tokenizer.chat_template:
            raise UserError("the tokenizer has no chat template: use an instruct model, or add chat_template.jinja")
        self.tokenizer = tokenizer
        self.reasoning = reasoning
        self._control = _control_pattern(tokenizer, reasoning)
        self._anchor = _anchor(tokenizer)
        self.date = date
        self._template = _pinned(tokenizer.get_chat_template(), datetime.date.fromisoformat(date))
        self.stop_ids = self._find_stop_ids()
        self._takes_system = self._keeps_system()

    @classmethod
    def configured(cls, tokenizer: Any, chat: ChatSection) -> "Renderer":
        """The renderer that the configuration's chat section asks for."""
        return cls(tokenizer, format_named(chat.reasoning), chat.date)

    @property
    def settings(self) -> dict:
        """What decides the renderer's output, for manifests (the tokenizer's files are hashed with the model's)."""
        return {
            "template": sha256_json(self.tokenizer.get_chat_template()),
            "date": self.date,
            "reasoning": {"name": self.reasoning.name, "open": self.reasoning.open, "close": self.reasoning.close},
        }

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens that generation starts from: the conversation and the template's generation prompt."""
        rendered = self._render(messages, generation_prompt=True)
        return self._tokenize(rendered, list(self._starts(messages, rendered.text).values())).ids

    def continuation(self, text: str) -> list[int]:
        """The tokens of text that goes on in a turn; what is a control token in it, delimiters aside, is text."""
        own = (self.reasoning.open, self.reasoning.close)
        cuts = [found.start() + 2 for found in self._control.finditer(text) if found.group() not in own]
        return self._encode(_Rendered(f" {text}", cuts), 1, len(text) + 1)[0]

    def examples(self, messages: Sequence[Message]) -> list[Example]:
        """Training examples that together train every assistant turn once, each as generation would meet it.

        One example where the template renders a turn the same whatever follows it. Otherwise (many templates drop
        the reasoning of earlier turns) one for each assistant turn: the conversation up to it, with all before it
        PROMPT.

        Raises UserError as `example` does.
        """
        turns = _assistant_turns(messages)
        if len(turns) < 2 or self._is_prefix_consistent(messages, turns):
            return [self.example(messages)]
        return [self._example(messages[: turn + 1], [turn]) for turn in turns]

    def example(self, messages: Sequence[Message]) -> Example:
        """The whole conversation as a training example; every assistant turn has its kinds.

        `example(m).tokens[:len(prompt(m[:-1]))] == prompt(m[:-1])` holds token for token where m ends with an
        assistant turn.

        Raises UserError naming the turn where the template renders earlier turns differently once a later one is
        there (it is not prefix-consistent), drops or rewrites the assistant's text, or ends its turn without a token
        that generation stops at.
        """
        turns = _assistant_turns(messages)
        if not turns:
            raise UserError("a training example needs an assistant turn; this conversation has none")
        return self._example(messages, turns)

    def _example(self, messages: Sequence[Message], trained: Sequence[int]) -> Example:
        """The conversation with the kinds of the assistant turns in `trained`; all else is PROMPT."""
        rendered = self._render(messages, generation_prompt=False)
        starts = self._starts(messages, rendered.text)
        for turn in trained:
            if turn not in starts:
                raise UserError(
                    f"turn {turn + 1}: the chat template renders what comes before this assistant turn differently "
                    "once the turn is there, so no exact loss mask exists; use another template"
                )
        tokens = self._tokenize(rendered, list(starts.values()))
        kinds = np.full(len(tokens.ids), PROMPT, np.uint8)
        bounds = [*tokens.starts[1:], len(tokens.ids)]
        for (turn, start), first, bound in zip(starts.items(), tokens.starts, bounds, strict=True):
            if turn not in trained:
                continue
            stop = next((i for i in range(first, bound) if tokens.ids[i] in self.stop_ids), None)
            if stop is None:
                raise UserError(f"turn {turn + 1}: the chat template ends the assistant's turn without a special token")
            answer_from, answer_to = self._answer_span(messages[turn], turn, rendered.text, start, tokens.ends[stop])
            for i in range(first, stop):
                # A token belongs where its last character does.
                kinds[i] = ANSWER if answer_from < tokens.ends[i] <= answer_to else REASONING
            kinds[stop] = ANSWER
        return Example(tokens=np.array(tokens.ids, np.int32), kinds=kinds)

    def _is_prefix_consistent(self, messages: Sequence[Message], turns: Sequence[int]) -> bool:
        """Whether the rendered conversation begins with that of each of its beginnings that end with an answer.

        Some templates end a conversation with an end-of-sequence token, which only the whole one has.
        """
        text, eos = self._render(messages, generation_prompt=False).text, self.tokenizer.eos_token or ""
        earlier = (self._render(messages[: turn + 1], generation_prompt=False).text for turn in turns[:-1])
        begins = (text.startswith(beginning.removesuffix(eos)) for beginning in earlier)
        return len(self._starts(messages, text)) == len(turns) and all(begins)

    def _starts(self, messages: Sequence[Message], text: str) -> dict[int, int]:
        """Where assistant turns begin in the rendered `text`, of those before which it is what their prompt is."""
        befores = {t: self._render(messages[:t], generation_prompt=True).text for t in _assistant_turns(messages)}
        return {turn: len(before) for turn, before in befores.items() if text.startswith(before)}

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of sampled tokens, without the stop token at the end. Other special tokens stay visible."""
        tokens = [int(token) for token in tokens]
        while tokens and tokens[-1] in self.stop_ids:
            tokens.pop()
        return self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def control_tokens_in(self, text: str) -> list[str]:
        """The control tokens written out in `text`, reasoning delimiters left aside. A sound answer has none."""
        own = (self.reasoning.open, self.reasoning.close)
        return [found for found in self._control.findall(text) if found not in own]

    def _render(self, messages: Sequence[Message], generation_prompt: bool) -> "_Rendered":
        for number, message in enumerate(messages, start=1):
            if message.role not in ROLES:
                raise UserError(f"turn {number}: role {message.role!r} is not known; use one of {', '.join(ROLES)}")
        if not self._takes_system:
            messages = _folded(messages)
        cover = _Cover(self._control, messages)
        turns = []
        for message in messages:
            content = "".join(text for text, _ in self._parts(message, cover.over))
            turns.append({"role": message.role, "content": content})
        if not turns:
            raise UserError("a conversation needs at least one message")
        try:
            covered = self._apply_template(turns, generation_prompt)
        except jinja2.TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise UserError(f"the chat template refuses a conversation of {roles}: {error}") from error
        return cover.lift(covered)

    def _apply_template(self, turns: list[dict[str, str]], generation_prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=generation_prompt, chat_template=self._template
        )

    def _parts(self, message: Message, over: Callable[[str], str] = str) -> list[tuple[str, bool]]:
        if message.role != "assistant" or not message.reasoning:
            return [(over(message.content), False)]
        return self.reasoning.parts(over(message.reasoning), over(message.content), answer_first=message.answer_first)

    def _answer_span(self, message: Message, turn: int, text: str, start: int, end: int) -> tuple[int, int]:
        """Where the answer's characters are in the rendered `text`, given where its turn starts and ends."""
        parts = self._parts(message)
        body = "".join(part for part, _ in parts)
        # Templates may trim the turn, so only what is inside its outer whitespace has to be there.
        found = text.find(body.strip(), start, end)
        if found < 0:
            what = "reasoning" if message.reasoning else "answer"
            raise UserError(
                f"turn {turn + 1}: the chat template drops or rewrites the assistant's {what}, so it cannot be trained"
            )
        first_ends = found - (len(body) - len(body.lstrip())) + len(parts[0][0])
        if parts[0][1]:
            return first_ends, end
        # Whitespace that the template puts in front is part of the answer; anything else is an (empty) reasoning
        # block.
        answer_from = found if text[start:found].strip() else start
        return answer_from, first_ends if len(parts) > 1 else end

    def _tokenize(self, rendered: "_Rendered", starts: Sequence[int]) -> "_Tokens":
        """Tokenizes, such that the tokens before each place in `starts` are those that a prompt ending there has.

        One pass over the text usually gives that by itself. Where a token would straddle the place, or the tokenizer
        decides otherwise once it sees more, the text from there on is a piece of its own, as it is in generation.
        """
        ids: list[int] = []
        ends: list[int] = []
        firsts: list[int] = []
        position = 0
        for stop in [*starts, len(rendered.text)]:
            whole_ids, whole_ends = self._encode(rendered, 0, stop)
            if whole_ids[: len(ids)] == ids:
                ids, ends = whole_ids, whole_ends
            else:
                more_ids, more_ends = self._encode(rendered, position, stop)
                ids, ends = ids + more_ids, ends + more_ends
            firsts.append(len(ids))
            position = stop
        return _Tokens(ids, ends, firsts[:-1])

    def _encode(self, rendered: "_Rendered", begin: int, end: int) -> tuple[list[int], list[int]]:
        """Token ids of `text[begin:end]`, both sides of every cut apart, and where each ends in the text."""
        ids: list[int] = []
        ends: list[int] = []
        edges = [begin, *(cut for cut in rendered.cuts if begin < cut < end), end]
        for left, right in itertools.pairwise(edges):
            # Tokenizers may treat a text's start specially (a prefix space); behind the anchor nothing is one.
            anchor = self._anchor if left else ""
            encoded = self.tokenizer(
                anchor + rendered.text[left:right], add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            skip = 1 if anchor else 0
            ids += encoded["input_ids"][skip:]
            ends += [left + to - len(anchor) for _, to in encoded["offset_mapping"][skip:]]
        return ids, ends

    def _keeps_system(self) -> bool:
        """Whether the template writes a system turn. Some refuse the role; some drop it once there is an answer."""
        roles = {"system": (probe := "system-probe"), "user": "x", "assistant": "y"}
        try:
            return probe in self._apply_template([{"role": r, "content": c} for r, c in roles.items()], False)
        except jinja2.TemplateError:
            return False

    def _find_stop_ids(self) -> tuple[int, ...]:
        """The control token that the template writes after an assistant's turn, and the end-of-sequence token."""
        stops, probe = [], "stop-probe"
        turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": probe}]
        try:
            text = self._apply_template(turns, False)
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template does not render a question and an answer: {error}") from error
        ending = self._control.search(text, text.rfind(probe))
        if ending:
            stops.append(self.tokenizer.convert_tokens_to_ids(ending.group()))
        if self.tokenizer.eos_token_id is not None:
            stops.append(self.tokenizer.eos_token_id)
        return tuple(dict.fromkeys(stops))


class _Tokens(NamedTuple):
    ids: list[int]
    ends: list[int]  # place in the text where each token ends
    starts: list[int]  # index of the first token of each assistant turn


class _Rendered(NamedTuple):
    text: str
    cuts: list[int]  # places inside written-out control tokens where tokens must not reach across


class _Cover:
    """Stands one private-use character for every control token in the messages while the template renders them.

    So what the template writes can be told from what the messages hold, also after it has trimmed or moved them.
    """

    def __init__(self, control: re.Pattern, messages: Sequence[Message]):
        self._pattern = control
        texts = [text for message in messages for text in (message.content, message.reasoning or "")]
        found = sorted({token for text in texts for token in control.findall(text)})
        taken = set().union(*texts) if found else set()
        free = (chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in taken)
        self._stand_in = dict(zip(found, free, strict=False))

    def over(self, text: str) -> str:
        if not self._stand_in:
            return text
        return self._pattern.sub(lambda match: self._stand_in[match.group()], text)

    def lift(self, covered: str) -> _Rendered:
        """The text with the control tokens written out again, each with a cut after its first character."""
        if not self._stand_in:
            return _Rendered(covered, [])
        back = {character: token for token, character in self._stand_in.items()}
        pieces = []
        cuts = []
        length = 0
        for character in covered:
            piece = back.get(character, character)
            if character in back:
                cuts.append(length + 1)
            pieces.append(piece)
            length += len(piece)
        return _Rendered("".join(pieces), cuts)


def _pinned(template: str, day: datetime.date) -> str:
    """The template, for which every day is `day`.

    A template is given the date by its caller as `date_string`, or calls `strftime_now`. As `transformers` hands no
    function of ours to a template, the latter is defined in front of it, as replacing all that may stand in a format.
    """
    before = ""
    if "strftime_now" in template:
        codes = [f"%{letter}" for letter in "aAbBcdefGHIjmMpSuUVwWxXyYzZ"] + ["%-d", "%-m"]
        replaced = "".join(f" | replace('{code}', '{day.strftime(code)}')" for code in codes)
        before = f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}"
    if "date_string" in template:
        before += f"{{% set date_string = '{day:%d %b %Y}' %}}"
    # Jinja drops a line end behind a block, and the template may begin with one.
    return f"{before}{{{{ '' }}}}{template}" if before else template


def _folded(messages: Sequence[Message]) -> list[Message]:
    """The conversation without system turns: their text is in front of that of the user turn that follows."""
    folded: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "system":
            waiting.append(message.content)
        elif message.role == "user" and waiting:
            folded.append(replace(message, content="\n\n".join([*waiting, message.content])))
            waiting = []
        else:
            folded.append(message)
    if waiting:
        raise UserError("the chat template takes no system turn, and no user turn follows that could hold its text")
    return folded


def _assistant_turns(messages: Sequence[Message]) -> list[int]:
    return [i for i, message in enumerate(messages) if message.role == "assistant"]


def _control_pattern(tokenizer: Any, reasoning: ReasoningFormat) -> re.Pattern:
    template = tokenizer.get_chat_template()
    names = {reasoning.open, reasoning.close}
    control = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.content.strip() and (token.special or token.content in names or token.content in template)
    ]
    longest_first = sorted(control, key=lambda content: (-len(content), content))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _anchor(tokenizer: Any) -> str:
    """A special token to put in front of a text that continues another one; empty where none is plain enough."""
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and not (token.lstrip or token.rstrip or token.normalized):
            return token.content
    return ""
