"""Generation on all processes of a job: the lead runs the verb, the others generate their share of what it asks for.

Each process has an engine of its own on its own devices, so nothing is waited for between two tokens. Requests are
dealt out beforehand; completions come back as notes. A request's tokens do not depend on which process it falls to.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from pydantic import TypeAdapter

from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.parallel.mailbox import mailbox
from rational_jax.parallel.processes import is_lead
from rational_jax.progress import Progress
from rational_jax.sample.requests import Completion, Rejected, Request, check_ids

LEAD = 0
REPORT_SECONDS = 0.5
"""How often completions are handed over."""

_REQUESTS, _COMPLETIONS = TypeAdapter(list[Request]), TypeAdapter(list[Completion])

Open = Callable[[RunConfig, str], Any]
"""Opens the engine of one process: a backend for "base" or an arm."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
    """The engines of all processes as one backend; `own` is the lead's."""

    own: Any
    processes: int

    @property
    def identity(self) -> dict:
        return self.own.identity

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they finish anywhere.

        Raises UserError, naming the process, where a share cannot be answered. The others give up what is left then,
        and so they do where the caller takes no more.
        """
        requests = list(requests)
        check_ids(requests)
        shares = deal(requests, self.processes)
        for process, share in enumerate(shares[1:], start=1):
            _tell(process, do="generate", requests=_REQUESTS.dump_python(share, mode="json"))
        missing = set(range(1, self.processes))
        try:
            for completion in self.own.generate(shares[LEAD]):
                yield completion
                yield from self._arrived(missing)
            while missing:
                time.sleep(REPORT_SECONDS / 5)
                yield from self._arrived(missing)
        finally:
            for process in missing:
                _tell(process, do="stop")
            for process in missing:
                while not _heard(process, wait=True).get("ended"):
                    pass

    @staticmethod
    def _arrived(missing: set[int]) -> Iterator[Completion]:
        """What has come since the last call; a process that has ended its share is missing no more."""
        for process in sorted(missing):
            while process in missing and (note := _heard(process)) is not None:
                if note.get("ended"):
                    missing.remove(process)
                yield from _COMPLETIONS.validate_python(note["completions"])
                if "error" in note:
                    said = f"process {process}: {note['error']}"
                    raise Rejected(said, note["problems"]) if note["problems"] else UserError(said)


def deal(requests: Sequence[Request], shares: int) -> list[list[Request]]:
    """Divides requests so that every share has as many of each budget; those that share a prompt stay together."""
    groups = itertools.groupby(requests, key=lambda r: (r.messages, r.prompt_ids, r.max_new_tokens))
    alike = sorted((list(group) for _, group in groups), key=lambda group: -group[0].max_new_tokens)
    return [list(itertools.chain.from_iterable(alike[share::shares])) for share in range(shares)]


def open_fleet(config: RunConfig, model: str, progress: Progress, open_engine: Open) -> Fleet:
    """Opens the model on all processes. Raises UserError, naming the process, where it is not there or another."""
    others = range(1, jax.process_count())
    _tell_all(do="open", config=config.model_dump_json(), model=model)
    try:
        own = open_engine(config, model)
    finally:
        answers = {process: _heard(process, wait=True) for process in others}
    for process, answer in answers.items():
        if "error" in answer:
            raise UserError(f"process {process}: {answer['error']}")
        if answer["identity"] != json.loads(json.dumps(own.identity)):
            raise UserError(f"process {process} has other files of the model {model!r}; give all of them the same")
    progress.message(f"{model}: {1 + len(others)} processes generate, {config.engine.slots} slots each")
    return Fleet(own=own, processes=1 + len(others))


def led(action: Callable[[], object], open_engine: Open) -> None:
    """Runs `action` on the lead, while the other processes generate for its fleets; with one process, just runs it.

    Where `action` raises what the user has to mend, the others raise a UserError as well. Whatever else ends the lead
    takes them with it, as JAX does with the processes of a job.
    """
    if not is_lead():
        _follow(open_engine)
        return
    try:
        action()
    except (UserError, OSError):
        _tell_all(do="end", failed=True)
        raise
    _tell_all(do="end", failed=False)


def _follow(open_engine: Open) -> None:
    backend = None
    while True:
        note = _heard(LEAD, wait=True)
        if note["do"] == "open":
            backend = None  # frees its memory for the next one
            try:
                backend = open_engine(RunConfig.model_validate_json(note["config"]), note["model"])
                _tell(LEAD, identity=backend.identity)
            except UserError as error:
                _tell(LEAD, error=str(error))
        elif note["do"] == "generate":
            _generate(backend, _REQUESTS.validate_python(note["requests"]))
        elif note["do"] == "end":
            if note["failed"]:
                raise UserError("process 0 has stopped; its output says why")
            return


def _generate(backend: Any, requests: list[Request]) -> None:
    """Answers a share, until it is done or the lead has something else to say."""
    ready, reported, problem = [], time.monotonic(), {}
    try:
        for completion in backend.generate(requests):
            ready.append(completion)
            if time.monotonic() - reported >= REPORT_SECONDS:
                _report(ready)
                ready, reported = [], time.monotonic()
                if mailbox().waiting(LEAD):
                    break
    except UserError as error:
        problem = {"error": str(error), "problems": error.problems if isinstance(error, Rejected) else {}}
    _report(ready, ended=True, **problem)


def _report(completions: list[Completion], **note: Any) -> None:
    _tell(LEAD, completions=_COMPLETIONS.dump_python(completions, mode="json"), **note)


def _tell_all(**note: Any) -> None:
    for process in range(1, jax.process_count()):
        _tell(process, **note)


def _tell(process: int, **note: Any) -> None:
    mailbox().send(process, json.dumps(note).encode())


def _heard(process: int, wait: bool = False) -> dict | None:
    note = mailbox().receive(process) if wait else mailbox().poll(process)
    return None if note is None else json.loads(note)
