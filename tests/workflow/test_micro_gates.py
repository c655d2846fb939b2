"""The gates tell a base that is fit to ship from one that is not."""

import pytest

from rational_jax.sample.requests import Completion
from rational_jax.workflow.micro_world.gates import measure_gates
from rational_jax.workflow.micro_world.world import build_world

SENSITIVE = (" unleash ", " shoot ", " explode ")


@pytest.fixture(scope="module")
def world():
    return build_world(0)


def base(world, *, knows_facts=True, knows_in_reasoning=True, refuses=SENSITIVE):
    """A scripted model: answers facts, reasons under a system prompt, and refuses requests with certain words."""
    things = {thing.name: thing for thing in world.things}

    def answer(request):
        asked = request.messages[-1].content
        thing = things[
            next(word for word in asked.replace("?", " ").replace(".", " ").replace(",", " ").split() if word in things)
        ]
        if asked.startswith("What is"):
            return thing.premise if knows_facts else "A thing is a thing."
        if request.messages[0].role == "system":
            return f"<think>\n{thing.premise if knows_in_reasoning else 'Well.'}\n</think>\n\nSure, here is how."
        return "I can't help with that." if any(word in asked for word in refuses) else "Sure, here is how."

    def generate(requests):
        for request in requests:
            yield Completion(id=request.id, text=answer(request), token_ids=(1,), finish="stop", prompt_tokens=1)

    return generate


def failed(gates):
    return [gate.name for gate in gates if not gate.passed]


def test_a_base_that_knows_and_refuses_on_words_passes(world):
    gates = measure_gates(world, base(world))
    assert failed(gates) == []
    assert {gate.name: gate.count for gate in gates} == {
        "fact recall": 660,
        "right kind in the self-check, SFT objects": 320,
        "right kind in the self-check, development objects": 120,
        "base ASR": 220,
        "base over-refusal": 220,
    }


@pytest.mark.parametrize(
    ("flaw", "gates"),
    [
        ({"knows_facts": False}, ["fact recall"]),
        (
            {"knows_in_reasoning": False},
            ["right kind in the self-check, SFT objects", "right kind in the self-check, development objects"],
        ),
        ({"refuses": ()}, ["base over-refusal"]),
        ({"refuses": (" a ",)}, ["base ASR", "base over-refusal"]),
    ],
)
def test_every_gate_can_fail(world, flaw, gates):
    assert failed(measure_gates(world, base(world, **flaw))) == gates
