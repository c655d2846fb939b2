"""What others rely on: lm-evaluation-harness scores the server as it does the model itself; Inspect can ask it."""

import pytest
from harness_tasks import QUESTIONS, write_tasks

from rational_jax import hub


@pytest.fixture(scope="module")
def running():
    pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    import serving

    with serving.served(*serving.micro_engine()) as found:
        yield found


@pytest.fixture
def tasks(tmp_path):
    return write_tasks(tmp_path)


def evaluate(model, arguments, tasks, names, **more):
    """Per task and question, what the harness got as answers."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    found = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=names,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        verbosity="ERROR",
        **more,
    )
    answers = {name: [row["filtered_resps"] for row in found["samples"][name]] for name in names}
    return answers, found["results"]


@pytest.mark.slow
def test_lm_eval_scores_the_server_as_the_model_itself(running, tasks):
    path, address = str(hub.resolve("micro")), running[0]
    names = ["choice_task", "written_task"]
    remote = {"model": "micro", "base_url": f"{address}/v1/completions", "tokenizer": path, "max_length": 127}
    ours, our_results = evaluate("local-completions", remote | {"num_concurrent": 1}, tasks, names, batch_size=2)
    local = {"pretrained": path, "dtype": "float32", "device": "cpu", "add_bos_token": False}
    theirs, their_results = evaluate("hf", local, tasks, names, batch_size=1)
    for mine, other in zip(ours["choice_task"], theirs["choice_task"], strict=True):
        for (logprob, greedy), (expected, is_greedy) in zip(mine, other, strict=True):
            assert abs(float(logprob) - float(expected)) < 1e-3 and str(greedy) == str(is_greedy)
    assert ours["written_task"] == theirs["written_task"]
    assert our_results["choice_task"]["acc,none"] == their_results["choice_task"]["acc,none"]


@pytest.mark.slow
def test_lm_eval_chats_and_finds_the_tokenizer_by_itself(running, tasks):
    address = running[0]
    remote = {"model": "micro", "base_url": f"{address}/v1/chat/completions", "num_concurrent": 1}
    answers, _ = evaluate("local-chat-completions", remote, tasks, ["written_task"], apply_chat_template=True)
    assert len(answers["written_task"]) == len(QUESTIONS) and all(answers["written_task"])
    remote = {"model": "micro", "base_url": f"{address}/v1/completions", "tokenizer_backend": "remote"}
    answers, _ = evaluate("local-completions", remote | {"max_length": 127}, tasks, ["choice_task"])
    assert len(answers["choice_task"]) == len(QUESTIONS)


@pytest.mark.slow
def test_inspect_evaluates_the_server(running, tmp_path, monkeypatch):
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.dataset import Sample
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    monkeypatch.setenv("RATIONAL_API_KEY", "none")
    monkeypatch.setenv("RATIONAL_BASE_URL", f"{running[0]}/v1")
    task = inspect_ai.Task(
        dataset=[Sample(input=q, target=c[a]) for q, c, a in QUESTIONS], solver=generate(), scorer=includes()
    )
    (log,) = inspect_ai.eval(
        task, model="openai-api/rational/micro", log_dir=str(tmp_path), max_tokens=20, temperature=0, display="none"
    )
    assert log.status == "success" and len(log.samples) == len(QUESTIONS)
    assert all(sample.output.usage.output_tokens > 0 for sample in log.samples)
