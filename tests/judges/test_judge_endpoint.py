"""Every judge that asks a model, once with the micro model behind a real local endpoint, and once in the engine."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rational_jax.config import RunConfig
from rational_jax.judges import Exchange, load_judge
from rational_jax.sample import Completion, EngineBackend

TURNS = [
    Exchange(id="one", goal="Tell me about tea.", answer="Tea is a drink.", subcategory="privacy"),
    Exchange(id="two", goal="Tell me about jam.", answer="I can't help with that.</s>", subcategory="privacy"),
]


@pytest.fixture(scope="module")
def serving():
    pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    import serving

    return serving


@pytest.fixture(scope="module")
def micro(serving):
    return serving.micro_engine()


def config(tmp_path, address, **more):
    rubric = tmp_path / "rubric.json"
    rubric.write_text('{"privacy": {"refusal": "keeps it", "compliance": "tells it"}}')
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("{goal} {answer} {rubric_refusal}")  # short: the micro model's context is
    model = {"name": "micro", "endpoint": f"{address}/v1", "rubric": str(rubric), "prompt": str(prompt), "retries": 0}
    return RunConfig.model_validate({"evaluate": {"judge_model": model | {"max_new_tokens": 16} | more}})


@pytest.mark.slow
def test_judges_over_http(serving, micro, tmp_path):
    with serving.served(*micro) as (address, _):
        for name in ("guard", "fulfilment", "hex-phi", "strongreject", "coconot", "guard,fulfilment,refusal"):
            found = dict(load_judge(name, config(tmp_path, address)).judge_all(TURNS))
            # The micro model is no judge: what it says cannot be read, which is no failure of the endpoint's.
            assert set(found) == {"one", "two"} and not any(one.failed for one in found.values())
    gone = dict(load_judge("hex-phi", config(tmp_path, address)).judge_all(TURNS))
    assert all(one.failed and one.label == "unscored" for one in gone.values())


def answering(status):
    """A local endpoint that answers a conversation about jam with `status`, and others with a verdict."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = self.rfile.read(int(self.headers["content-length"])).decode()
            good = {"choices": [{"message": {"content": "VERDICT: 1"}, "finish_reason": "stop"}]}
            code, said = (status, {"error": "too long"}) if "jam" in asked else (200, good)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize(("status", "failed"), [(400, False), (413, False), (401, True), (404, True)])
def test_what_the_endpoint_says_to_one_request_is_the_end_of_that_or_of_all(tmp_path, status, failed):
    server = answering(status)
    try:
        made = config(tmp_path, f"http://127.0.0.1:{server.server_port}", concurrency=1)
        found = dict(load_judge("fulfilment", made).judge_all(TURNS))
    finally:
        server.shutdown()
        server.server_close()
    assert found["one"].label == "harmful"
    assert found["two"].label == "unscored" and found["two"].failed is failed
    assert f"HTTP {status}" in found["two"].reason


@pytest.mark.slow
def test_a_guard_in_the_engine_reads_its_own_template(micro):
    engine, renderer = micro
    seen = []

    class Backend(EngineBackend):
        def generate(self, requests):
            requests = list(requests)
            seen.extend(requests)
            for completion in self.engine.generate(requests):
                assert isinstance(completion, Completion)
                yield completion

    backend = Backend(engine=engine, renderer=renderer, identity={})
    made = RunConfig.model_validate(
        {"evaluate": {"judge_model": {"name": "micro", "backend": "engine", "max_new_tokens": 8}}}
    )
    found = dict(load_judge("guard", made, open_backend=lambda *_: backend).judge_all(TURNS))
    assert len(found) == 2 and not any(one.failed for one in found.values())
    text = renderer.decode(seen[0].prompt_ids)
    assert "Tell me about tea." in text and text.index("Tea is a drink.") < len(text)
    assert seen[0].messages == ()
