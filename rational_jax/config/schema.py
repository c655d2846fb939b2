"""The schema of a run. Every field carries its meaning and unit as a description, and its range as a constraint."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rational_jax.config.kinds import (
    Arms,
    Count,
    Day,
    Flag,
    Layers,
    Layouts,
    MeshSize,
    Momentum,
    Names,
    Natural,
    NotNegative,
    Positive,
    Probability,
    PromptSource,
    Remat,
    Section,
    Sources,
    Text,
)

DATE = "2024-07-26"
"""What a chat template is told that today is. Templates of Llama 3 fall back on this day themselves."""

BASE = "base"
"""What the untrained model is called among `sample.models`."""

CIRCUIT_BREAKER = "circuit-breaker"
"""The arm that is trained by representation rerouting instead of SFT."""


def _unique(key: str, values: tuple[str, ...]) -> None:
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice:
        raise ValueError(f"{key} names {twice[0]!r} twice")


def _subset(key: str, values: tuple[str, ...], among: str, allowed: tuple[str, ...]) -> None:
    others = [value for value in values if value not in allowed]
    if others:
        raise ValueError(f"{key} names {others[0]!r}, which is not in {among} ({', '.join(allowed)})")


class ModelSection(Section):
    """The model that everything starts from."""

    name: Text = Field(
        "micro", description="`micro` (in the package), a folder here, in a bucket or on the web, a Hugging Face name"
    )
    revision: Text | None = Field(None, description="branch, tag or commit on Hugging Face; null is the newest")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="what the model computes in")
    attention: Text = Field("auto", description="attention kernel of training; auto takes the best for the platform")


class MeshSection(Section):
    """How the devices are arranged. One size may be -1 and takes what the others leave."""

    replica: MeshSize = Field(1, description="copies of the model, each with its part of the batch")
    fsdp: MeshSize | Annotated[tuple[MeshSize, ...], Field(min_length=1, max_length=3)] = Field(
        -1, description="devices that parameters and batch are spread over; on a TPU torus one number for each axis"
    )
    tensor: MeshSize = Field(1, description="devices that each layer's heads and hidden units are spread over")

    @model_validator(mode="after")
    def _check(self):
        factors = self.fsdp if isinstance(self.fsdp, tuple) else (self.fsdp,)
        sizes = (self.replica, *factors, self.tensor)
        if 0 in sizes:
            raise ValueError("a size must be at least 1, or -1 for what the others leave; got 0")
        if sizes.count(-1) > 1:
            raise ValueError("only one of replica, fsdp and tensor may be -1")
        return self


class ChatSection(Section):
    """How a conversation becomes text."""

    reasoning: Literal["think", "plain"] = Field(
        "think", description="<think> tags, or plain paragraphs as in the paper"
    )
    date: Day = Field(DATE, description="what chat templates that write today's date write instead")


class EngineSection(Section):
    """The generation engine."""

    slots: Count = Field(64, description="sequences generated at the same time")
    max_length: Count = Field(256, description="longest sequence, prompt included (tokens)")
    steps_per_dispatch: Count = Field(8, description="tokens a sequence between two looks by the host")
    backend: Literal["engine", "openai", "transformers"] = Field(
        "engine", description="who generates: this package, an OpenAI-compatible endpoint, or torch (for cross-checks)"
    )
    weights: Literal["export", "checkpoint"] = Field(
        "export", description="where a trained arm is read from: its export, or the newest checkpoint of its training"
    )
    quantize: Literal["nf4", "int8"] | None = Field(
        None, description="keep the weights of linear layers in 4 or 8 bits; null is as they are"
    )
    endpoint: Text | None = Field(None, description="address of the endpoint, up to its /v1")
    endpoint_model: Text | None = Field(
        None, description="what the untrained model is called there; null is model.name. Arms have their own names"
    )
    api_key_env: Text = Field("OPENAI_API_KEY", description="environment variable that holds the endpoint's key")
    concurrency: Count = Field(8, description="requests to the endpoint at the same time")
    requests_per_minute: Count | None = Field(None, description="most requests to the endpoint; null is no limit")
    retries: Natural = Field(6, description="further tries where the endpoint is busy or out of reach")


class CurateSection(Section):
    """The model writes rationales; filters decide which are kept."""

    prompts: Sources = Field(
        (PromptSource(source="micro/sft"),), description="where prompts come from: names, files, or sections with more"
    )
    limit: Count | None = Field(None, description="use only the first so many prompts; null is all")
    recipe: Text = Field("rational-plus", description="how the model is asked to reason: a name, or a .yaml file")
    policies: Text | None = Field(None, description="a .yaml file in place of the policies that the recipe has")
    datasets: Layouts = Field(("rational", "refusal"), description="layouts written from the same kept samples")
    samples: Count | None = Field(None, description="samples drawn for each prompt; null is what the recipe says")
    keep: Count | None = Field(None, description="samples kept of each prompt, at most; null is what the recipe says")
    filters: Names | None = Field(None, description="filters that decide what is kept; null is what the recipe says")
    judges: tuple[Literal["guard", "reasoning"], ...] = Field(
        (), description="what evaluate.judge_model is asked of samples: guard (is there harm), reasoning (marks 1 to 5)"
    )
    least_score: NotNegative | None = Field(None, description="least mark of a kept sample; null is no bound")
    most: Count | None = Field(
        None, description="samples kept in all, at most, evenly from labels, categories and styles; null is all"
    )
    decontaminate: Literal["remove", "report", "off"] | None = Field(
        None, description="what becomes of prompts that are in sample.suites too; null is what the recipe says"
    )
    mix: Sources | None = Field(None, description="harmless general prompts that the model answers as it always does")
    mix_share: Momentum = Field(0.1, description="share of those answers in the data")
    rounds: Count = Field(1, description="each further round's data comes from the model that the one before trained")
    temperature: NotNegative = Field(0.8, description="sampling temperature; 0 is greedy")
    top_p: Probability = Field(1.0, description="nucleus: probability mass that is sampled from")
    max_new_tokens: Count = Field(160, description="longest sample (tokens)")


class LoraSection(Section):
    """The low-rank adapter, where `train.method` is lora or qlora."""

    rank: Count = Field(16, description="rank of the update")
    alpha: Positive = Field(32.0, description="the update is weighted by alpha / rank")
    rslora: bool = Field(False, description="weight the update by alpha / sqrt(rank)")
    targets: Names = Field(
        ("all-linear",), description="names or patterns of the matrices that get one, such as q_proj, *_proj, experts.*"
    )
    layers: Layers | None = Field(None, description="numbers of the layers that get one, from 0; null is all")
    dropout: Momentum = Field(0.0, description="probability of dropping an element of the adapter's input")


class CircuitBreakerSection(Section):
    """The arm circuit-breaker: representations of harmful answers are led away from the base's, others are kept."""

    reroute: Text | None = Field(None, description="harmful answers: a file or folder of rows with prompt and answer")
    retain: Text | None = Field(None, description="the same of what is to stay: conversations, and refusals as well")
    layers: Layers | None = Field(None, description="rerouted after so many layers; null is 10 and 20 of 32, to scale")
    alpha: Positive = Field(10.0, description="weight of rerouting at first; half of it goes over to what is to stay")
    retain_weight: Positive = Field(1.0, description="of distances besides: less where the model's streams are long")
    without_request: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="share of the answers in both sets that stand without their request"
    )


class TrainSection(Section):
    """Supervised fine-tuning, once for each arm."""

    arms: Arms = Field(
        ("rational", "refusal"),
        description="curated datasets; one model is trained on each. circuit-breaker is trained by that section",
    )
    data: Text | None = Field(
        None,
        description="train on the rationales in this .jsonl, .csv or .parquet file or dataset folder; null is what "
        "`rational curate` left",
    )
    format: Literal["tfds", "datasets"] = Field("tfds", description="which of the two curated forms is read")
    method: Literal["lora", "qlora", "full"] = Field(
        "lora", description="what is trained: an adapter, one over quantized weights, or all parameters"
    )
    parameters: Literal["float32", "bfloat16"] = Field("float32", description="of what is trained, where all is")
    quantize: Literal["nf4", "int8"] = Field("nf4", description="how qlora keeps the weights of linear layers")
    lora: LoraSection = LoraSection()
    circuit_breaker: CircuitBreakerSection = CircuitBreakerSection()
    steps: Count = Field(120, description="optimizer steps")
    batch_size: Count = Field(16, description="packed rows a step, over all devices")
    micro_batches: Count = Field(1, description="parts of a batch whose gradients are added up, to save memory")
    remat: Remat = Field("none", description="what the backward pass computes again: nothing, ..., the whole forward")
    tpu_flags: tuple[Flag, ...] = Field((), description="options of the TPU compiler, NAME=VALUE; unused elsewhere")
    z_loss: NotNegative = Field(0.0, description="weight of the squared log-partition in the loss")
    sequence_length: Annotated[int, Field(ge=8, le=2**20)] = Field(256, description="length of a packed row (tokens)")
    optimizer: Text = Field("adamw", description="an optimizer of optax, by name")
    learning_rate: Positive = Field(1e-3, description="at its peak")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="from the peak to the last step")
    warmup_steps: Natural = Field(10, description="steps of linear rise to the peak")
    weight_decay: NotNegative = Field(0.0, description="on matrices, not on norms and biases")
    clip_norm: Positive = Field(1.0, description="longest global gradient norm")
    beta1: Momentum = Field(0.9, description="decay of the first moment")
    beta2: Momentum = Field(0.99, description="decay of the second moment")
    loss_on: Literal["completion", "answer", "reasoning", "all"] = Field(
        "completion", description="tokens with a loss: reasoning and answer, one of them, or the prompt too"
    )
    reasoning_weight: NotNegative = Field(1.0, description="loss weight of a reasoning token; the others have 1")
    rows: Literal["packed", "bucketed", "padded"] = Field(
        "packed", description="several examples to a row; or one, of a length like its own, or filled up"
    )
    overlong: Literal["drop", "truncate"] = Field("drop", description="what becomes of examples longer than a row")
    most_lost: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="share of examples that may lose their answer, or part of it, to sequence_length"
    )
    heldout: Momentum = Field(
        0.0, description="share of the prompts that is kept from training, to measure the loss on"
    )
    heldout_every: Count = Field(20, description="steps between two measurements on held-out prompts")
    sample_prompts: Text | None = Field(
        None, description="a bundled set or a file whose first prompts are answered now and then, for TensorBoard"
    )
    sample_every: Count = Field(50, description="steps between two times that these are answered")
    save_every: Count = Field(40, description="steps between two checkpoints")
    keep_checkpoints: Count = Field(2, description="newest checkpoints kept")
    keep_every: Count | None = Field(None, description="also keep the checkpoints of multiples of this step")
    keep_best: bool = Field(False, description="also keep the checkpoint of the least held-out loss")
    profile: Annotated[tuple[Count, ...], Field(min_length=2, max_length=2)] | None = Field(
        None, description="first and last step of a profiler trace, written for TensorBoard"
    )
    log_every: Count = Field(1, description="steps between two rows of metrics")

    @model_validator(mode="after")
    def _check(self):
        _unique("arms", self.arms)
        if CIRCUIT_BREAKER in self.arms:
            for key, unfit, instead in (
                ("method", self.method == "full", "lora or qlora: the model is compared with its frozen base"),
                ("rows", self.rows == "bucketed", "packed or padded: both sets share every batch"),
                ("batch_size", self.batch_size % 2, "to be even: half of the rows are of each set"),
                ("heldout", self.heldout, "0: there is no loss of tokens to measure"),
                ("z_loss", self.z_loss, "0: there is no loss of tokens"),
            ):
                if unfit:
                    raise ValueError(f"the arm {CIRCUIT_BREAKER} needs {key} {instead}")
        if self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must not be more than steps ({self.steps})")
        if self.sample_prompts and self.method == "qlora":
            raise ValueError("sample_prompts needs weights that are not quantized: method lora or full")
        if self.keep_best and not self.heldout:
            raise ValueError(
                "keep_best needs a held-out loss: set train.heldout to the share of prompts it is taken on"
            )
        if self.keep_best and self.save_every % self.heldout_every:
            raise ValueError("keep_best needs save_every to be a multiple of heldout_every")
        if self.profile and self.profile[0] > self.profile[1]:
            raise ValueError(f"profile is the first and the last step of the trace, got {list(self.profile)}")
        return self


class ExportSection(Section):
    """What is written for others to load."""

    merged: bool = Field(True, description="a whole Hugging Face model with the update merged in")
    adapter: bool = Field(True, description="a PEFT adapter, unless the method is full")
    dtype: Literal["base", "bfloat16", "float32"] = Field("base", description="of the merged model; base is as it came")
    verify: Literal["auto", "transformers", "layerwise", "self", "off"] = Field(
        "auto",
        description="who reloads and compares it; auto is transformers where torch is installed (layerwise where the "
        "model is too large for the memory), else self",
    )
    upload: Text | None = Field(
        None, description="address of a folder in an object store that finished parts are copied to"
    )

    @model_validator(mode="after")
    def _check(self):
        if not (self.merged or self.adapter):
            raise ValueError("one of merged and adapter must be true")
        return self


class SampleSection(Section):
    """The models answer the prompts of the suites."""

    suites: Names = Field(("micro",), description="bundled suites, or prompt files by their path")
    models: Names = Field((BASE, "rational", "refusal"), description="`base` and arms of train.arms")
    limit: Count | None = Field(
        None, description="only so many prompts of each suite, evenly over category, label and base; null is all"
    )
    attacks: tuple[Text, ...] = Field(
        (),
        description="harmful prompts also under these attacks, such as base64, rot13+role-play, prefill, many-shot, "
        "model:slang (written by evaluate.judge_model)",
    )
    samples: Count = Field(1, description="answers drawn for each prompt")
    temperature: NotNegative = Field(0.0, description="sampling temperature; 0 is greedy")
    top_p: Probability = Field(1.0, description="nucleus: probability mass that is sampled from")
    max_new_tokens: Count = Field(160, description="longest answer, reasoning included (tokens)")

    @model_validator(mode="after")
    def _check(self):
        _unique("suites", self.suites)
        _unique("models", self.models)
        return self


class JudgeModelSection(EngineSection):
    """The model that judges of harm ask, a guard model or a general one, and what runs it."""

    name: Text | None = Field(None, description="a local folder, a Hugging Face name, or what the endpoint calls it")
    revision: Text | None = Field(None, description="branch, tag or commit on Hugging Face; null is the newest")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="what it computes in")
    backend: Literal["engine", "openai", "transformers"] = Field("openai", description="as engine.backend")
    slots: Count = Field(16, description="sequences generated at the same time")
    max_length: Count = Field(8192, description="longest sequence, the judged answer included (tokens)")
    max_new_tokens: Count = Field(512, description="longest judgement (tokens)")
    prompt: Text | None = Field(None, description="a file with {goal} and {answer} in place of our rubric's wording")
    rubric: Text | None = Field(None, description="CoCoNot's refusal_evaluation_rubric.json, for the judge coconot")


class CapabilitySection(Section):
    """Tasks of lm-evaluation-harness that the models are asked too, to see that they can still do what they could."""

    tasks: tuple[Text, ...] = Field((), description="tasks or groups, such as gsm8k, mmlu, truthfulqa_mc2, toxigen")
    limit: Count | None = Field(None, description="only the first so many items of each task; null is all")
    mode: Literal["direct", "reasoning", "both"] = Field(
        "direct", description="take the text as it is, or let the model reason and take what follows the delimiter"
    )
    chat: bool = Field(True, description="ask by the chat template; false is the task's plain text")
    few_shot: Natural | None = Field(None, description="examples in each prompt; null is what the task says")
    include: Text | None = Field(None, description="folder of task files of your own")


class EvaluateSection(Section):
    """Judging the answers, and the statistics."""

    judge: Text = Field(
        "refusal",
        description="refusal, refusal-rules, guard, fulfilment, hex-phi, strongreject, coconot; a majority of several "
        "(refusal,guard,fulfilment); or suites: for each suite its own. Benign prompts are always judged by refusal",
    )
    judge_model: JudgeModelSection = JudgeModelSection()
    bootstrap: Annotated[int, Field(ge=100, le=1_000_000)] = Field(2000, description="resamples for the intervals")
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(0.95, description="coverage of the intervals")
    capability: CapabilitySection = CapabilitySection()


class ReportSection(Section):
    """The page at the end."""

    title: Text = Field("Does reasoning about safety help?", description="heading of the report")
    published: Text | None = Field(
        None,
        description="CSV of published models (model, hard_refused_percent, toxic_refused_percent) to draw behind ours; "
        "null draws those of OR-Bench, in its own picture only",
    )
    validation: Text | None = Field(
        None, description="what `rational judge --validate FILE --json` printed about the judge"
    )
    inspect: bool = Field(False, description="also write logs for `inspect view` (some ms an answer)")


class RunConfig(Section):
    """All of a run. Frozen and checked as a whole; see each section for its keys."""

    run: Text = Field("runs/demo", description="folder that everything is written to")
    seed: Natural = Field(0, description="all randomness follows from it")
    model: ModelSection = ModelSection()
    mesh: MeshSection = MeshSection()
    chat: ChatSection = ChatSection()
    engine: EngineSection = EngineSection()
    curate: CurateSection = CurateSection()
    train: TrainSection = TrainSection()
    export: ExportSection = ExportSection()
    sample: SampleSection = SampleSection()
    evaluate: EvaluateSection = EvaluateSection()
    report: ReportSection = ReportSection()

    @model_validator(mode="after")
    def _check(self):
        _unique("curate.datasets", self.curate.datasets)
        curated = tuple(arm for arm in self.train.arms if arm != CIRCUIT_BREAKER)
        _subset("train.arms", curated, "curate.datasets", self.curate.datasets)
        _subset("sample.models", self.sample.models, "base and train.arms", (BASE, *self.train.arms))
        keep, samples = self.curate.keep, self.curate.samples
        if keep is not None and samples is not None and keep > samples:
            raise ValueError(f"curate.keep ({keep}) is more than curate.samples ({samples})")
        for key, tokens in (
            ("curate.max_new_tokens", self.curate.max_new_tokens),
            ("sample.max_new_tokens", self.sample.max_new_tokens),
        ):
            if tokens > self.engine.max_length:
                raise ValueError(f"{key} ({tokens}) does not fit in engine.max_length ({self.engine.max_length})")
        return self
