"""The run configuration: one frozen schema for YAML files, dotted overrides and Python.

YAML is read by the rules of version 1.2, so that `off` is a word and `1e-3` a number.
"""

from rational_jax.config.kinds import PromptSource, Section, Sources
from rational_jax.config.load import bundled_configs, load_config, to_yaml
from rational_jax.config.schema import (
    BASE,
    CIRCUIT_BREAKER,
    DATE,
    ChatSection,
    CircuitBreakerSection,
    CurateSection,
    EngineSection,
    EvaluateSection,
    ExportSection,
    LoraSection,
    MeshSection,
    ModelSection,
    ReportSection,
    RunConfig,
    SampleSection,
    TrainSection,
)

__all__ = [
    "BASE",
    "CIRCUIT_BREAKER",
    "DATE",
    "ChatSection",
    "CircuitBreakerSection",
    "CurateSection",
    "EngineSection",
    "EvaluateSection",
    "ExportSection",
    "LoraSection",
    "MeshSection",
    "ModelSection",
    "PromptSource",
    "ReportSection",
    "RunConfig",
    "SampleSection",
    "Section",
    "Sources",
    "TrainSection",
    "bundled_configs",
    "load_config",
    "to_yaml",
]
