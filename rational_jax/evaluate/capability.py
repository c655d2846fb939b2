"""What a model can do besides refusing: tasks of lm-evaluation-harness, answered by our engine.

"direct" takes what the model writes as it is. "reasoning" lets it reason first, and the answer is what follows the
closing delimiter; where a task compares the probabilities of given answers, these are scored after the reasoning.
Needs the extra `lm-eval`; the harness brings the tasks and their metrics.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.evaluate.results import Capability
from rational_jax.progress import SILENT, Progress
from rational_jax.sample.backends import EngineBackend, model_identity, open_engine
from rational_jax.sample.requests import Completion, Request
from rational_jax.storage import JsonlLog, sha256_json

if TYPE_CHECKING:
    from lm_eval.api.model import TemplateLM

_NEW_TOKENS = 256  # what the harness takes where a task does not say


def run(config: RunConfig, log: Path, progress: Progress = SILENT, open_engine=open_engine) -> tuple[Capability, ...]:
    """Scores of every model in `sample.models` on `evaluate.capability.tasks`, in that order.

    `log` keeps them by model and settings, so that what is there is not asked again. Raises UserError where the
    harness is not installed, a task is not known, or the engine has no room for one.
    """
    section = config.evaluate.capability
    _harness()
    found: list[Capability] = []
    modes = ("direct", "reasoning") if section.mode == "both" else (section.mode,)
    with JsonlLog(log) as done, progress.task("capability", total=len(config.sample.models) * len(modes)) as task:
        known = {record["key"]: record["scores"] for record in done.records()}
        for model in config.sample.models:
            settings = [section.model_dump(mode="json", exclude={"mode"}), config.seed, config.engine.max_length]
            keys = {mode: sha256_json([model_identity(config, model), settings, mode]) for mode in modes}
            backend = None
            for mode in modes:
                if keys[mode] not in known:
                    backend = backend or open_engine(config, model)
                    asked = harness_model(backend, reasoning=mode == "reasoning", seed=config.seed)
                    scores = _scores(asked, section)
                    known[keys[mode]] = scores
                    done.append({"key": keys[mode], "model": model, "mode": mode, "scores": scores})
                found += [Capability(model=model, mode=mode, **score) for score in known[keys[mode]]]
                task.advance()
            if backend is not None:
                # The harness's model refers to itself, so the engine would stay beside the next until it is collected.
                backend.engine.params = {}
    return tuple(found)


def _harness():
    try:
        import lm_eval
    except ImportError:
        raise UserError(
            "evaluate.capability.tasks needs lm-evaluation-harness: pip install 'rational-jax[lm-eval]'"
        ) from None
    return lm_eval


def _scores(model: "TemplateLM", section) -> list[dict[str, Any]]:
    """Runs the tasks; every metric that is a number, as `Capability` without model and mode."""
    lm_eval = _harness()
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=section.include, include_defaults=True)
    unknown = [name for name in section.tasks if not tasks.match_tasks([name])]
    if unknown:
        raise UserError(f"evaluate.capability.tasks: lm-evaluation-harness has no task {unknown[0]!r} (`lm-eval ls`)")
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=list(section.tasks),
        task_manager=tasks,
        num_fewshot=section.few_shot,
        limit=section.limit,
        apply_chat_template=section.chat,
        log_samples=False,
        bootstrap_iters=1000,  # for metrics that are no means; the others have a closed form
        verbosity="ERROR",
    )
    return read_scores(found, section.tasks)


def read_scores(found: Mapping[str, Any], names: Iterable[str]) -> list[dict[str, Any]]:
    """The metrics of the tasks (or groups) called `names` in what the harness returns, in the order of the names."""
    scores = []
    for name in names:
        values = found["results"].get(name) or found.get("groups", {}).get(name, {})
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = values.get(f"{metric}_stderr,{filtered}")
            shown = metric if filtered == "none" else f"{metric} ({filtered})"
            error = float(stderr) if isinstance(stderr, int | float) else None
            n = sum(found["n-samples"][leaf]["effective"] for leaf in _leaves(found, name))
            scores.append({"task": name, "metric": shown, "value": float(value), "stderr": error, "n": n})
    return scores


def _leaves(found: Mapping[str, Any], name: str) -> list[str]:
    """The tasks that a name stands for: itself, or all tasks of a group."""
    if name in found["n-samples"]:
        return [name]
    return [leaf for part in found.get("group_subtasks", {}).get(name, ()) for leaf in _leaves(found, part)]


def harness_model(backend: EngineBackend, *, reasoning: bool, seed: int = 0) -> "TemplateLM":
    """The engine as a model class of the harness; see the module for what `reasoning` does."""
    _harness()
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

    engine, renderer = backend.engine, backend.renderer
    form, tokenizer = renderer.reasoning, renderer.tokenizer

    class EngineModel(TemplateLM):
        """Log-likelihoods from the engine's prompt log-probabilities, text from its generation."""

        def __init__(self):
            super().__init__()
            self.tokenizer = tokenizer

        @property
        def eot_token_id(self) -> int:
            return tokenizer.eos_token_id

        @property
        def prefix_token_id(self) -> int:
            return self.eot_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id

        @property
        def tokenizer_name(self) -> str:
            return "rational"

        @property
        def max_length(self) -> int:
            return engine.max_length

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_) -> list[int]:
            if add_special_tokens is None:
                # A rendered chat begins with the token itself, which must not come twice.
                add_special_tokens = not (tokenizer.bos_token and string.startswith(tokenizer.bos_token))
            return tokenizer.encode(string, add_special_tokens=add_special_tokens)

        def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
            return tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )

        def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            if not reasoning:
                return super().loglikelihood(requests, disable_tqdm=True)
            contexts = list(dict.fromkeys(one.args[0] for one in requests))
            wanted = [self._request(n, text, engine.max_length // 2, ()) for n, text in enumerate(contexts)]
            said = self._generate(wanted)
            pairs = []
            for context, answer in (one.args for one in requests):
                text = said[str(contexts.index(context))]
                split = text.apart(form)
                thought = form.parts(split.reasoning, "")[0][0] if split.reasoning else ""
                # The delimiter and the blank line stand between, so the answer begins without the task's space.
                begun = self._fitting(context, engine.max_length // 2) + renderer.continuation(thought)
                asked = answer.lstrip() if thought else answer
                tail = self._encode_pair(context, answer)[1] if not thought else renderer.continuation(asked)
                pairs.append(((context, answer), begun, tail))
            return self._loglikelihood_tokens(pairs)

        def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, **_) -> list[tuple[float, bool]]:
            wanted, lengths = [], []
            for number, (_, context, continuation) in enumerate(requests):
                ids = tuple((context + continuation)[-(engine.max_length - 1) :])
                lengths.append(min(len(continuation), len(ids) - 1))
                wanted.append(
                    Request(id=str(number), messages=(), prompt_ids=ids, max_new_tokens=1, prompt_logprobs=True)
                )
            said = self._generate(wanted)
            return [_score(said[one.id], one.prompt_ids, length) for one, length in zip(wanted, lengths, strict=True)]

        def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
            sums = []
            for one in requests:
                windows = get_rolling_token_windows(
                    token_list=self.tok_encode(one.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=engine.max_length - 2,
                    context_len=1,
                )
                parts = [((None, None), *make_disjoint_window(window)) for window in windows]
                sums.append(sum(score for score, _ in self._loglikelihood_tokens(parts)))
            return sums

        def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
            wanted, stops = [], []
            for number, (context, options) in enumerate(one.args for one in requests):
                until = options.get("until") or ()
                stops.append((until,) if isinstance(until, str) else tuple(text for text in until if text))
                tokens = options.get("max_gen_toks") or _NEW_TOKENS
                if tokens >= engine.max_length:
                    raise UserError(
                        f"a task wants {tokens} new tokens, for which engine.max_length={engine.max_length} has no "
                        "room; raise it"
                    )
                sampled = options.get("do_sample") and options.get("temperature", 0)
                wanted.append(self._request(number, context, tokens, stops[-1], options if sampled else {}))
            said = self._generate(wanted)
            return [self._answer(said[one.id], stop) for one, stop in zip(wanted, stops, strict=True)]

        def _answer(self, completion: Completion, stops: Sequence[str]) -> str:
            text = completion.apart(form).answer if reasoning else completion.text
            # The engine leaves reasoning alone; in direct mode a stop string counts wherever it stands.
            return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]

        def _request(
            self, number: int, context: str, tokens: int, stops: tuple[str, ...], sampling: Mapping = {}
        ) -> Request:
            return Request(
                id=str(number),
                messages=(),
                prompt_ids=tuple(self._fitting(context, tokens)),
                max_new_tokens=tokens,
                stop=stops,
                seed=seed,
                temperature=float(sampling.get("temperature", 0.0)),
                top_p=float(sampling.get("top_p", 1.0)),
            )

        def _fitting(self, context: str, tokens: int) -> list[int]:
            """The end of the context that leaves room for so many new tokens."""
            return self.tok_encode(context)[-(engine.max_length - tokens) :]

        def _generate(self, requests: list[Request]) -> dict[str, Completion]:
            return {one.id: one for one in backend.generate(requests)}

    return EngineModel()


def _score(completion: Completion, ids: Sequence[int], length: int) -> tuple[float, bool]:
    """Sum of the log-probabilities of the last `length` tokens, and whether each was the most probable."""
    if length == 0:
        return 0.0, True
    logprobs, best = completion.prompt_logprobs[-length:], completion.prompt_best[-length:]
    greedy = all(token == one[0] for token, one in zip(ids[-length:], best, strict=True))
    return float(sum(logprobs)), greedy
