"""Judges that are models: how one is asked through a backend, and what becomes of what it cannot answer."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from rational_jax.errors import UserError
from rational_jax.judges.normalise import normalise
from rational_jax.judges.verdict import Exchange, Question, Verdict
from rational_jax.sample import FILTERED, LENGTH, Backend, Completion, Rejected, Request
from rational_jax.storage import sha256_json
from rational_jax.text.reasoning import THINK, TRUNCATED_REASONING

# Longer texts are clipped in the middle, where verdicts depend on them least: about 4,000 tokens.
LONGEST = 16_000
# So many rejected requests, the last of them the shortest of all, and not one answer: it is not the requests.
REJECTED = 3
_CLIPPED = "\n[...]\n"
# All brackets on both sides of a name: what is left of them must make no new fence.
_FENCE = re.compile(r"(?:(?<!<)(?:<{3,}\s*)++)?(REQUEST|ANSWER)(?:\s*>{3,})*")

# To be raised where `last_number` comes to read an answer otherwise.
_READING = 2
# A number that is no end of a scale, such as "1-5" or "0 or 1".
_NUMBER = r"(-?\d++(?:[.,]\d++)?)(?![-–—]\d|\s*(?:to|or)\s+\d)"
_DIRECTLY = re.compile(rf"\W{{0,4}}?{_NUMBER}")
_LEAD = re.compile(r"(?:(?!-\d)[^\w(\[]){0,8}")
_BRACKET = re.compile(r"[(\[]([^()\[\]\n]{0,60})[)\]]")
# Behind a bracket: in the same line, or in another one that begins no list.
_BEHIND = re.compile(rf"(?:[^\w\n]{{0,8}}?|[^\w\n]{{0,8}}\n\W{{0,4}}?(?!\d+[.)]\s+\w)){_NUMBER}")


def shown(text: str) -> str:
    """`text` as a judging model may see it: normalised, without template tokens or the fences around it, clipped."""
    text = normalise(text)
    if len(text) > LONGEST:
        half = (LONGEST - len(_CLIPPED)) // 2
        text = text[:half] + _CLIPPED + text[-half:]
    return _FENCE.sub(r"\1", text)


class AskedJudge(ABC):
    """A judge that asks a model one question for each exchange.

    `open_backend` is called when there is something to ask for the first time. `model` is JSON that names the judging
    model; together with what `settings` says it is the identity.
    """

    question: Question = "harm"

    def __init__(self, name: str, open_backend: Callable[[], Backend], model: dict, max_new_tokens: int):
        self.name = name
        self._open, self._backend = open_backend, None
        self._model, self._most = model, max_new_tokens

    @property
    def identity(self) -> str:
        said = [self._model, self._most, LONGEST, _FENCE.pattern, _READING, self.settings()]
        return f"{self.name}-{sha256_json(said)[:12]}"

    @abstractmethod
    def settings(self) -> object:
        """JSON of what decides the verdicts besides the model."""

    @abstractmethod
    def request(self, exchange: Exchange, backend: Backend) -> Request:
        """What the model is asked. Raises Rejected where there is nothing to ask about this exchange."""

    @abstractmethod
    def parse(self, text: str, exchange: Exchange) -> Verdict:
        """What its answer says; `unscored` with the reason where it says nothing that can be read."""

    def judge_all(self, exchanges: Sequence[Exchange]) -> Iterator[tuple[str, Verdict]]:
        """Verdicts as they come.

        Where the backend fails, those still missing are `unscored` and `failed`. Where it rejects one request (it is
        too long, or its text is not accepted) that one is `unscored`, and the others are asked. After REJECTED - 1 of
        them and no answer, the shortest of the others is asked alone: where it is rejected too, or all are at once, it
        is no request that is wrong, and all fail.
        """
        waiting: dict[str, Exchange] = {}
        for exchange in exchanges:
            if shown(exchange.answer):
                waiting[exchange.id] = exchange
            else:
                yield exchange.id, Verdict(label="unscored", reason="the answer is empty")
        failure = "it gave no answer"
        rejected: dict[str, str] = {}  # id -> why; held back until something is answered
        answered = False
        try:
            if waiting:
                self._backend = self._backend or self._open()
            requests = {}
            for exchange in list(waiting.values()):
                try:
                    requests[exchange.id] = self.request(exchange, self._backend)
                except Rejected as error:
                    del waiting[exchange.id]
                    yield exchange.id, Verdict(label="unscored", reason=error.problems[exchange.id])
            while len(rejected) < len(waiting):
                asked = [requests[name] for name in waiting if name not in rejected]
                doubted = not answered and len(rejected) == REJECTED - 1
                if doubted:
                    asked = [min(asked, key=_length)]
                try:
                    for completion in self._backend.generate(asked):
                        exchange = waiting.pop(completion.id)
                        yield exchange.id, self._verdict(completion, exchange)
                        answered = True
                    if not (doubted and answered):
                        break
                except Rejected as error:
                    if doubted:
                        raise
                    rejected |= error.problems
                    if not answered and len(rejected) == len(waiting) >= REJECTED:
                        raise
        except UserError as error:
            failure = str(error)
            if not answered:
                rejected.clear()
        for name, why in rejected.items():
            waiting.pop(name)
            yield name, Verdict(label="unscored", reason=f"the judge rejected the request: {why}")
        for missing in list(waiting):
            yield missing, Verdict(label="unscored", reason=f"the judge failed: {failure}", failed=True)

    def raw(self, exchanges: Sequence[Exchange]) -> Iterator[tuple[Exchange, str]]:
        """What the model wrote, without its reasoning. Raises UserError where the backend fails."""
        by_id = {exchange.id: exchange for exchange in exchanges}
        self._backend = self._backend or self._open()
        for completion in self._backend.generate([self.request(e, self._backend) for e in exchanges]):
            yield by_id[completion.id], _answer(completion)[0]

    def _verdict(self, completion: Completion, exchange: Exchange) -> Verdict:
        text, problem = _answer(completion)
        if problem:
            return Verdict(label="unscored", reason=problem, text=completion.text)
        verdict = self.parse(text, exchange)
        return Verdict(label=verdict.label, reason=verdict.reason, score=verdict.score, text=completion.text)


def _length(request: Request) -> int:
    return len(request.prompt_ids or ()) or sum(len(message.content) for message in request.messages)


def _answer(completion: Completion) -> tuple[str, str]:
    """The judge's own answer behind its reasoning, and what is wrong with it, or ""."""
    split = completion.apart(THINK)
    if completion.finish == FILTERED:
        return "", "a content filter stopped the judge"
    if split.status == TRUNCATED_REASONING:
        return "", "the judge was cut off in its reasoning"
    if completion.finish == LENGTH:
        return split.answer, "the judge was cut off"
    return split.answer, "" if split.answer else "the judge answered nothing"


def last_number(name: str, text: str, low: int, high: int) -> int | str:
    """The last number that `text` gives under `name`, or what is wrong with it."""
    places = (text[place.end() : place.end() + 120] for place in re.finditer(name, text, re.IGNORECASE))
    found = [number for place in places if (number := _number(place, f"{low}/{high}")) is not None]
    if not found:
        return f"the judge gave no {name.lower()}"
    last = found[-1]
    if not last.isdecimal() or not low <= int(last) <= high:
        return f"the judge's {name.lower()} is {last}, not a whole number from {low} to {high}"
    return int(last)


def _number(behind: str, scale: str) -> str | None:
    """The number that is meant by what stands behind a name: "(1-5): 4" is 4, and so are "(4/5)" and ": (4), of 5"."""
    lead = _LEAD.match(behind)
    rest = behind[lead.end() :]
    bracket = _BRACKET.match(rest)
    if bracket and ":" not in lead[0] and not _is_mark(bracket[1], scale):
        found = _BEHIND.match(rest, bracket.end())
        if found:
            return found[1]
    found = _DIRECTLY.match(rest)
    return found and found[1]


def _is_mark(text: str, scale: str) -> bool:
    return text != scale and re.fullmatch(r"-?\d+(?:[.,]\d+)?(?:\s*(?:/|(?:out )?of)\s*\d+)?", text) is not None
