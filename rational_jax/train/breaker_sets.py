"""What circuit breakers are trained on: answers whose representations are rerouted, and others that keep theirs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from rational_jax import hub
from rational_jax.config import RunConfig
from rational_jax.data.batches import Batches, place
from rational_jax.data.packing import pack
from rational_jax.data.schema import Rationale
from rational_jax.data.sources import read_rationales
from rational_jax.errors import UserError
from rational_jax.storage import sha256_file, sha256_json, sha256_tree
from rational_jax.stores import local_copy
from rational_jax.text.chat import Example, Message, Renderer
from rational_jax.train.examples import Examples, drawn, refuse_lost, row_options

SETS = ("reroute", "retain")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BreakerSets:
    """Both sets. Rows are numbered through: those of `reroute`, then those of `retain`."""

    reroute: Examples
    retain: Examples
    heldout: None = None
    others: int = 0

    @property
    def renderer(self) -> dict:
        """The renderer's settings."""
        return self.reroute.renderer

    @property
    def report(self) -> dict:
        """What became of the examples of each set, as figures of the stage."""
        return {name: getattr(self, name).report for name in SETS}

    @property
    def reported(self) -> str:
        """The same in one line."""
        return "; ".join(f"{name} {getattr(self, name).reported}" for name in SETS)

    def batches(self, batch_size: int, seed: int) -> BreakerBatches:
        """The rows in batches, half of each set."""
        return BreakerBatches(self, batch_size, seed)

    def named(self, rows: Sequence[int]) -> str:
        """The examples in some rows, in a few words."""
        border = len(self.reroute.packed.tokens)
        parts = [row for row in rows if row < border], [row - border for row in rows if row >= border]
        sets = zip(SETS, (self.reroute, self.retain), parts, strict=True)
        return "; ".join(f"{examples.named(part)} of {name}" for name, examples, part in sets if part)


def load_breaker_sets(config: RunConfig, base: Path) -> BreakerSets:
    """Both sets, rendered with the base's own template and packed.

    Reasoning and answers are rerouted, or the prompt too, as `train.loss_on` says; in the other set every token is
    retained. Raises UserError where a set is missing or empty, and where too many harmful answers are cut.
    """
    section = config.train
    renderer = Renderer.configured(hub.load_tokenizer(base), config.chat)
    weights = {"reasoning_weight": section.reasoning_weight, "loss_on": section.loss_on}

    def load(name: str) -> Examples:
        ids: list[str] = []
        rendered: list[Example] = []
        for rationale in read_rationales(set_path(config, name)):
            for example in renderer.examples(_conversation(config, rationale)):
                rendered.append(example)
                ids.append(rationale.id)
        options = weights if name == "reroute" else {"loss_on": "all"}
        packed = pack(rendered, **options, **row_options(section))
        if name == "reroute":
            refuse_lost(section, packed.report.lost, len(rendered), f"train.circuit_breaker.{name}")
        return Examples(packed=packed, ids=tuple(ids), heldout=None, others=0, renderer=renderer.settings)

    return BreakerSets(**{name: load(name) for name in SETS})


def set_path(config: RunConfig, name: str) -> Path:
    """Where one of `SETS` is. Raises UserError where the configuration does not say, or nothing is there."""
    said = getattr(config.train.circuit_breaker, name)
    if said is None:
        raise UserError(
            f"train.circuit_breaker.{name}: the arm circuit-breaker needs two sets of answers, reroute and retain; "
            "scripts/circuit_breaker_sets.py writes them from what the base itself answers"
        )
    path = local_copy(said)
    if not path.exists():
        raise UserError(f"train.circuit_breaker.{name}={said}: no such file or folder")
    return path


def digest_sets(config: RunConfig) -> dict[str, str]:
    """What is trained on, as inputs of the stage."""
    paths = {name: set_path(config, name) for name in SETS}
    return {
        name: sha256_json(sha256_tree(path)) if path.is_dir() else sha256_file(path) for name, path in paths.items()
    }


def _conversation(config: RunConfig, rationale: Rationale) -> list[Message]:
    """The conversation to train on; for a share of them the answer alone, after an empty request."""
    messages = rationale.training_messages()
    if drawn(f"{config.seed}:without request:{rationale.id}") < config.train.circuit_breaker.without_request:
        return [Message(role="user", content=""), messages[-1]]
    return messages


class BreakerBatches:
    """Batches as `data.batches.Batches` has them, whose rows are of one set and the other by turns.

    `weights` are those of what is rerouted, 0 in rows that are retained; `retain` is 1 at the tokens of these.
    """

    def __init__(self, sets: BreakerSets, batch_size: int, seed: int):
        self.batch_size = batch_size
        self._packed = (sets.reroute.packed, sets.retain.packed)
        self._batches = tuple(Batches(packed, batch_size // 2, seed) for packed in self._packed)
        self.lengths = self._batches[0].lengths

    def rows_of(self, step: int) -> np.ndarray:
        """Which rows the batch of a step (from 0) holds, in the numbers of `BreakerSets`."""
        reroute, retain = (batches.rows_of(step) for batches in self._batches)
        return np.stack([reroute, retain + len(self._packed[0].tokens)], axis=1).reshape(-1)

    def batch(self, step: int, part: slice = slice(None)) -> dict[str, np.ndarray]:
        """The batch of a step (from 0) or a part of it, arrays of [B, S]."""
        reroute, retain = (batches.batch(step) for batches in self._batches)
        reroute["retain"] = np.zeros_like(reroute["weights"])
        retain["retain"] = (retain["segments"] > 0).astype(np.float32)
        retain["weights"] = np.zeros_like(retain["weights"])
        return {
            name: np.stack([reroute[name], retain[name]], axis=1).reshape(self.batch_size, -1)[part] for name in reroute
        }

    def placed(self, step: int, sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
        """The batch of a step on the devices of `sharding`."""
        return place((self.batch_size, self.lengths[0]), lambda part: self.batch(step, part), sharding)
