"""Published sets by their names: what is downloaded, and what is said where it cannot be."""

import errno
import time

import huggingface_hub
import pytest
from huggingface_hub import errors
from prompt_hub import COMMIT, GATED, serving

from rational_jax.config import PromptSource
from rational_jax.data import benchmarks
from rational_jax.data.sources import read_prompts
from rational_jax.errors import Unreachable, UserError


@pytest.fixture
def server(tmp_path, monkeypatch):
    with serving(tmp_path, monkeypatch) as server:
        yield server


def test_by_its_name_and_only_its_files_and_once(server):
    found = read_prompts("xstest")
    assert [(prompt.id, prompt.label) for prompt in found] == [("xstest:1", "benign"), ("xstest:2", "harmful")]
    assert {path for path in server.asked if "/resolve/" in path} == {
        f"/datasets/Paul/XSTest/resolve/{COMMIT}/xstest_prompts.csv"
    }
    server.asked.clear()
    assert read_prompts("xstest") == found and not any("/resolve/" in path for path in server.asked)


def test_several_files_and_several_sets(server):
    found = read_prompts(["hex-phi", PromptSource(source="xstest", where={"label": "benign"}, revision=COMMIT)])
    assert [prompt.id for prompt in found] == [
        "hex-phi:category_1:1",
        "hex-phi:category_1:2",
        "hex-phi:category_2:1",
        "xstest:1",
    ]
    assert found[0].text == "Say A, B"


def test_without_access_the_page_to_ask_at_is_named(server):
    with pytest.raises(UserError, match=rf"gated: ask for access at https://huggingface.co/datasets/{GATED}, then"):
        read_prompts("sorry-bench")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (PromptSource(source="xstest", revision="v9"), "has no revision 'v9'"),
        (PromptSource(source="advbench", revision="v9"), "is not on the Hub, so it has no revision"),
        ("do-not-answer", "datasets/LibrAI/do-not-answer is not there, or not for you; or read a copy"),
    ],
)
def test_what_the_hub_refuses_is_one_line(server, source, message):
    with pytest.raises(UserError, match=message) as caught:
        read_prompts(source)
    assert "\n" not in str(caught.value)


def test_without_the_network_the_cache_is_enough(server, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the library's tries
    found = read_prompts("xstest")
    server.shutdown()
    server.server_close()
    assert read_prompts("xstest") == found
    with pytest.raises(Unreachable, match="hex-phi is not in the local cache and the Hub cannot be reached") as caught:
        read_prompts("hex-phi")
    assert "hex-phi@PATH" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [errors.HTTPError("peer closed"), ConnectionError("peer closed")])
def test_a_connection_that_breaks_is_one_line_that_says_to_go_on(monkeypatch, error):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(Unreachable, match=r"^xstest: .* broke off \(peer closed\); the same command goes on"):
        read_prompts("xstest")
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left on device"):
        read_prompts("xstest")


def elsewhere(server, monkeypatch, name: str) -> None:
    benchmark = benchmarks.Benchmark(
        about="", rows=benchmarks.BENCHMARKS["advbench"].rows, files=("*.csv",), urls=(f"{server.address}/{name}",)
    )
    monkeypatch.setitem(benchmarks.BENCHMARKS, "advbench", benchmark)


def test_a_set_in_its_authors_repository(server, monkeypatch):
    elsewhere(server, monkeypatch, "repository/harmful_behaviors.csv")
    found = read_prompts("advbench")
    assert [(prompt.id, prompt.text) for prompt in found] == [("advbench:1", "Say it")]
    server.asked.clear()
    assert read_prompts("advbench") == found and not server.asked


def test_a_repository_that_cannot_be_read(server, monkeypatch):
    elsewhere(server, monkeypatch, "gone.csv")
    with pytest.raises(UserError, match=r"advbench could not be downloaded from .*404.*advbench@PATH") as caught:
        read_prompts("advbench")
    assert "\n" not in str(caught.value) and not isinstance(caught.value, Unreachable)
    server.shutdown()
    server.server_close()
    with pytest.raises(Unreachable, match="advbench could not be downloaded from"):
        read_prompts("advbench")
