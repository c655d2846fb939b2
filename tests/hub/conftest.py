"""Tiny random Llama directories, made by transformers itself."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One tiny architecture; the names say what is unusual about it."""

    heads: int = 4
    kv_heads: int = 2
    head_dim: int | None = None
    vocab: int = 131
    tied: bool = False
    bias: bool = False
    rope: dict | None = None
    dtype: str = "float32"
    shard: str = "1GB"


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES = {
    "gqa": Shape(),
    "mha-tied-bf16": Shape(kv_heads=4, tied=True, dtype="bfloat16", vocab=97),
    "wide-heads-bias-sharded": Shape(head_dim=24, bias=True, shard="40KB"),
    "llama3-rope": Shape(tied=True, rope=LLAMA3),
    "linear-rope": Shape(rope={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}, kv_heads=1),
}


@pytest.fixture(scope="session")
def llama_directory(tmp_path_factory) -> Callable[[str], Path]:
    """A function that makes (once) the directory of one of `SHAPES`, with weights large enough to matter."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            shape = SHAPES[name]
            config = transformers.LlamaConfig(
                vocab_size=shape.vocab,
                hidden_size=64,
                intermediate_size=88,
                num_hidden_layers=3,
                num_attention_heads=shape.heads,
                num_key_value_heads=shape.kv_heads,
                head_dim=shape.head_dim,
                max_position_embeddings=1024,
                tie_word_embeddings=shape.tied,
                attention_bias=shape.bias,
                rope_parameters=shape.rope,
                initializer_range=0.2,
            )
            torch.manual_seed(list(SHAPES).index(name))
            model = transformers.LlamaForCausalLM(config)
            with torch.no_grad():  # transformers starts norms at one and biases at zero, which would hide a mix-up
                for key, value in model.named_parameters():
                    if "norm" in key or key.endswith("bias"):
                        value.add_(torch.rand_like(value))
            made[name] = tmp_path_factory.mktemp("llama") / name
            model.to(getattr(torch, shape.dtype)).save_pretrained(made[name], max_shard_size=shape.shard)
        return made[name]

    return make
