"""Prompts and samples on the disk: they are read when they are looked at, and what is held of each is its place."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from rational_jax.curate.candidates import Candidate
from rational_jax.curate.recipes import Recipe
from rational_jax.data.schema import Prompt
from rational_jax.judges import RefusalJudge, Verdict
from rational_jax.sample.requests import taken_apart
from rational_jax.text.reasoning import ReasoningFormat


class Rows(Sequence[dict]):
    """The objects of a JSON-lines file by number, at these offsets (bytes), or at those of all of its lines."""

    def __init__(self, path: Path, offsets: np.ndarray | None = None):
        self.path = path
        if offsets is None:
            with path.open("rb") as file:
                ends = np.cumsum(np.fromiter(map(len, file), np.int64))
            offsets = ends - np.diff(ends, prepend=0)
        self._offsets = offsets
        self._file = path.open("rb")

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, number: int) -> dict:
        return json.loads(self.line(number))

    def line(self, number: int) -> bytes:
        self._file.seek(self._offsets[number])
        return self._file.readline()

    def part(self, start: int, stop: int) -> Iterator[dict]:
        """These rows in turn, which must lie one behind the other."""
        if start == stop:
            return
        with self.path.open("rb") as file:
            file.seek(self._offsets[start])
            yield from map(json.loads, islice(file, stop - start))


@dataclass(frozen=True, kw_only=True)
class Part:
    """Prompts that are asked by one recipe: `prompts` numbers those in the file of all, and so does `first` samples."""

    recipe: Recipe
    prompts: range
    first: int
    samples: int
    keep: int
    filters: tuple[str, ...] | None

    @property
    def numbers(self) -> range:
        """Those of its samples, a prompt's side by side."""
        return range(self.first, self.first + len(self.prompts) * self.samples)


class StoredSamples(Sequence[Candidate]):
    """The samples of a part, taken apart and judged when they are read; the verdicts are remembered."""

    def __init__(self, part: Part, prompts: Rows, samples: Rows, reasoning: ReasoningFormat, judge: RefusalJudge):
        self._part, self._prompts, self._samples = part, prompts, samples
        self._reasoning, self._judge = reasoning, judge
        self._verdicts: list[Verdict] = []
        self._places: dict[Verdict, int] = {}
        self._verdict = np.full(len(part.numbers), -1, np.int32)

    def __len__(self) -> int:
        return len(self._part.numbers)

    def __getitem__(self, number: int) -> Candidate:
        if not 0 <= number < len(self):
            raise IndexError(number)
        prompt = Prompt.from_json(self._prompts[self._part.prompts[number // self._part.samples]])
        return self._candidate(number, prompt, self._samples[self._part.numbers[number]])

    def __iter__(self) -> Iterator[Candidate]:
        part = self._part
        rows = enumerate(self._samples.part(part.numbers.start, part.numbers.stop))
        for row in self._prompts.part(part.prompts.start, part.prompts.stop):
            prompt = Prompt.from_json(row)
            for number, sample in islice(rows, part.samples):
                yield self._candidate(number, prompt, sample)

    def _candidate(self, number: int, prompt: Prompt, row: dict) -> Candidate:
        split = taken_apart(row["text"], row["finish"], self._reasoning)
        verdict = self._judged(number, split.answer, prompt.goal)
        return Candidate(
            id=row["id"],
            prompt=prompt,
            sample=number % self._part.samples,
            text=row["text"],
            split=split,
            verdict=verdict.label,
            verdict_reason=verdict.reason,
        )

    def _judged(self, number: int, answer: str, goal: str) -> Verdict:
        if self._verdict[number] < 0:
            verdict = self._judge.judge(answer, goal)
            place = self._places.setdefault(verdict, len(self._verdicts))
            if place == len(self._verdicts):
                self._verdicts.append(verdict)
            self._verdict[number] = place
        return self._verdicts[self._verdict[number]]
