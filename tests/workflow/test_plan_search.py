"""The search over ways to run a step: what is tried, in which order, what is pruned, and that it can be continued."""

import types

import pytest
from tiny import tiny_llama

from rational_jax.config import load_config
from rational_jax.errors import UserError
from rational_jax.models.remat import POLICIES
from rational_jax.workflow import plan_search
from rational_jax.workflow.plan_search import Way, candidates, search

LLAMA_8B = tiny_llama(
    vocab_size=128256,
    embed_dim=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=14336,
    tie_embeddings=False,
)


@pytest.fixture
def pod(monkeypatch):
    """Sixteen chips of a v5e:4x4, as far as a mesh looks at them, and Llama 3.1 8B without its files."""
    chips = [types.SimpleNamespace(coords=(i % 4, i // 4, 0)) for i in range(16)]
    monkeypatch.setattr(plan_search, "topology_devices", lambda *_: chips)
    monkeypatch.setattr(plan_search.hub, "resolve", lambda *_, **__: None)
    monkeypatch.setattr(plan_search.hub, "load_config", lambda _: LLAMA_8B)

    def mesh(*, replica, fsdp, tensor, devices):
        factors = {"fsdp": 4, "fsdp_y": 4} if (fsdp, tensor) == (-1, 1) else {"fsdp": len(devices) // tensor}
        return types.SimpleNamespace(shape={"replica": replica, **factors, "tensor": tensor})

    monkeypatch.setattr(plan_search, "make_mesh", mesh)
    return chips


def configured(tmp_path, *words):
    sizes = ["model.dtype=bfloat16", "train.sequence_length=4096", "train.batch_size=32"]
    return load_config(None, [f"run={tmp_path / 'run'}", *sizes, *words])


def planner(config, topology, slices, *, fits=("full", "save-attention")):
    """A compiler of which some policies fit, the less is computed again the faster."""
    found = config.train.remat in fits
    speed = 1000.0 * (len(POLICIES) - list(POLICIES).index(config.train.remat)) / config.train.micro_batches
    plan = {"fits": found, "peak_gib": 10.0 if found else 20.0, "limit_gib": 15.75}
    return plan | {"bound": 50.0 if found else None, "tokens_per_second": speed if found else None, "unknown": None}


def test_arithmetic_rules_out_what_cannot_fit(tmp_path, pod):
    """32 layers keep 2 x 14,336 bfloat16 numbers a token: 14 GiB for the two rows of a chip, beside what is trained."""
    ways = list(candidates(configured(tmp_path, "train.method=full"), LLAMA_8B, "v5e:4x4", pod))
    assert {way.remat for way in ways if way.micro_batches == 1} == {"save-attention", "offload", "full"}
    assert "save-mlp" in {way.remat for way in ways if way.micro_batches == 2}
    assert all(32 % (16 // way.tensor * way.micro_batches) == 0 for way in ways)
    order = [list(POLICIES).index(way.remat) for way in ways]
    assert order == sorted(order)
    with pytest.raises(UserError, match="nothing fits v5e:4x4 by arithmetic"):
        search(configured(tmp_path, "train.method=full", "train.sequence_length=131072"), "v5e:4x4")


def test_the_fastest_that_fits_is_written_for_train(tmp_path, pod):
    config = configured(tmp_path, "train.method=lora")
    found = search(config, "v5e:4x4", compiled=planner)
    assert found.untried == 0
    assert found.trials[0].way.remat == "save-attention"
    speeds = [trial.plan["tokens_per_second"] or 0 for trial in found.trials]
    assert speeds == sorted(speeds, reverse=True)
    best = load_config(found.best, [])
    assert best.train.remat == "save-attention"
    unchanged = {"mesh": config.mesh, "train": config.train}
    assert best.model_copy(update=unchanged) == config
    # The same settings as words are the same configuration.
    assert load_config(None, [*_words(config), *found.trials[0].way.words()]).train == best.train


def _words(config):
    given = {"run": config.run, "model.dtype": "bfloat16", "train.method": "lora"}
    return [f"{k}={v}" for k, v in given.items()] + ["train.sequence_length=4096", "train.batch_size=32"]


def test_what_needs_more_than_what_did_not_fit_is_not_compiled(tmp_path, pod):
    tried = []

    def compiled(config, *rest):
        train = config.train
        tried.append((train.remat, config.mesh.fsdp, config.mesh.tensor, train.micro_batches, train.tpu_flags))
        return planner(config, *rest, fits=())

    found = search(configured(tmp_path, "train.method=lora"), "v5e:4x4", compiled=compiled)
    assert found.best is None
    assert len(tried) == len(set(tried)) == len(found.trials)
    way = Way((4, 4), 1, "save-mlp", 1, ())
    failed = plan_search.Trial(way._replace(remat="save-attention", micro_batches=2), {"fits": False})
    assert plan_search._needs_more(way, failed)
    assert not plan_search._needs_more(way._replace(remat="full"), failed)
    assert not plan_search._needs_more(way._replace(micro_batches=4), failed)
    assert not plan_search._needs_more(way._replace(tensor=2), failed)


def test_a_search_goes_on_where_its_time_was_over(tmp_path, pod, monkeypatch):
    config = configured(tmp_path, "train.method=lora")
    monkeypatch.setattr(plan_search, "parallel_compiles", lambda: 1)
    clock = [0.0]
    monkeypatch.setattr(plan_search.time, "monotonic", lambda: clock[0])

    def slow(*arguments):
        clock[0] += 60.0
        return planner(*arguments)

    first = search(config, "v5e:4x4", budget_minutes=2.5, compiled=slow)
    assert len(first.trials) == 3 and first.untried > 0
    tried = []
    second = search(config, "v5e:4x4", compiled=lambda c, *a: tried.append(c) or planner(c, *a))
    assert {trial.way for trial in first.trials} < {trial.way for trial in second.trials}
    assert len(tried) == len(second.trials) - 3
    # Other settings have nothing to do with these trials.
    third = search(configured(tmp_path, "train.method=lora", "train.lora.rank=8"), "v5e:4x4", compiled=planner)
    assert len(third.trials) == len(second.trials)
