"""A judge by its name, and the model behind it by the configuration."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rational_jax.config import BASE, RunConfig
from rational_jax.errors import UserError
from rational_jax.judges.combined import FittingJudge, MajorityJudge
from rational_jax.judges.refusal import RefusalJudge
from rational_jax.judges.verdict import Judge
from rational_jax.progress import SILENT, Progress

if TYPE_CHECKING:
    from rational_jax.sample import Backend

RULES, GUARD, SUITES = "refusal-rules", "guard", "suites"
NAMES = (RefusalJudge.name, RULES, GUARD, "fulfilment", "hex-phi", "strongreject", "coconot", "reasoning")
"""The judges that `evaluate.judge` and `--judge` may name."""

OpenBackend = Callable[[RunConfig, str, Progress], "Backend"]


def load_judge(
    name: str,
    config: RunConfig | None = None,
    progress: Progress = SILENT,
    open_backend: OpenBackend | None = None,
) -> Judge:
    """The judge called `name`; several names with commas between them are a majority.

    What judges with a model ask is `evaluate.judge_model` of `config`; it is opened when the first answer is judged.
    Raises UserError for a name that no judge has, and where the model is not said.
    """
    names = [part.strip() for part in name.split(",")]
    if len(names) > 1:
        return MajorityJudge([load_judge(part, config, progress, open_backend) for part in names])
    if name == RefusalJudge.name:
        return RefusalJudge()
    if name == RULES:
        return RefusalJudge(model=None)
    if name not in NAMES:
        raise UserError(f"there is no judge {name!r}; choose from {', '.join(NAMES)}, or several with commas between")
    config = config or RunConfig()
    section = config.evaluate.judge_model
    if section.name is None:
        raise UserError(
            f"the judge {name} needs a model: set evaluate.judge_model.name, and evaluate.judge_model.endpoint where "
            "it is served (or evaluate.judge_model.backend=engine)"
        )
    # Here, because they bring JAX, which the judges of refusal do without.
    from rational_jax import sample
    from rational_jax.judges.guard import GuardJudge
    from rational_jax.judges.rubric import RubricJudge
    from rational_jax.sample.rewrites import helper

    asked, opened = helper(config), open_backend or sample.open_backend
    asking = (lambda: opened(asked, BASE, progress), sample.model_identity(asked, BASE), section.max_new_tokens)
    if name == GUARD:
        return GuardJudge(name, *asking)
    return RubricJudge(name, *asking, template=section.prompt, rubric=section.rubric)


def fitting_judge(
    name: str,
    config: RunConfig,
    suites: Mapping[str, str],
    progress: Progress = SILENT,
    open_backend: OpenBackend | None = None,
) -> Judge:
    """What `evaluate.judge` asks for: a judge by its name, for the prompts that it can speak about.

    "suites" takes for each suite the judge that `suites` names for it. Raises UserError as `load_judge` does.
    """
    refusal = RefusalJudge()
    if name == SUITES:
        by_name = {one: load_judge(one, config, progress, open_backend) for one in sorted(set(suites.values()))}
        return FittingJudge(refusal, refusal, {suite: by_name[one] for suite, one in suites.items()})
    judge = load_judge(name, config, progress, open_backend)
    return judge if judge.question == "refusal" else FittingJudge(judge, refusal)
