"""Every configuration is one, and each recipe's training step fits the TPU that the recipe names."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from model_shapes import SHAPES

from rational_jax.config import load_config

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
TOPOLOGY = re.compile(r"^# topology: (\S+)$", re.MULTILINE)
FILES = sorted(file for file in CONFIGS.rglob("*.yaml"))
RECIPES = sorted(file for folder in ("recipes", "rivals") for file in (CONFIGS / folder).glob("*.yaml"))
NAMES = [file.relative_to(CONFIGS).as_posix() for file in FILES]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_every_configuration_is_one(file):
    config = load_config(file)
    # What a run is called follows from the file, so that no two of them meet in one folder.
    assert config.run.split("/")[-1] == file.stem
    for line in re.findall(r"configs/(\S+\.yaml)", file.read_text()):
        assert (CONFIGS / line).is_file(), line


@pytest.mark.parametrize("file", RECIPES, ids=[file.stem for file in RECIPES])
def test_a_recipe_names_its_topology_and_a_model_that_is_known(file):
    (topology,) = TOPOLOGY.findall(file.read_text())
    chips = 1
    for size in topology.partition(":")[2].split("x"):
        chips *= int(size)
    config = load_config(file)
    assert config.model.name in SHAPES
    assert config.train.batch_size % (chips * config.train.micro_batches) == 0
    assert f"--topology {topology}" in file.read_text()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
@pytest.mark.parametrize("file", RECIPES, ids=[file.stem for file in RECIPES])
def test_a_recipe_fits_its_topology(file, tmp_path):
    """Compiled for it, with a tenth of the memory to spare."""
    (topology,) = TOPOLOGY.findall(file.read_text())
    (tmp_path / "config.json").write_text(json.dumps(SHAPES[load_config(file).model.name]))
    command = [sys.executable, "-m", "rational_jax.cli", "plan", str(file), f"--topology={topology}", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    found = subprocess.run([*command, f"model.name={tmp_path}"], env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    made = json.loads(found.stdout)
    print(f"{file.stem} {topology}: {made['peak_gib']} GiB, at most {made['bound']}% MFU")
    assert made["fits"], made["advice"]
    assert made["peak_gib"] <= 0.9 * made["limit_gib"]


@pytest.fixture(scope="module")
def plan_paper():
    spec = importlib.util.spec_from_file_location("plan_paper", ROOT / "scripts" / "plan_paper.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_configuration_of_the_paper_has_its_plans(plan_paper):
    stored = json.loads(plan_paper.PLANS.read_text())
    found = sorted((name, plan["topology"]) for plan in stored["plans"] for name in plan["configurations"])
    names = [file.stem for file in (CONFIGS / "paper").glob("*.yaml")]
    assert found == sorted((name, topology) for name in names for topology in plan_paper.TOPOLOGIES)
    assert [names for _, names in plan_paper.programs()] == [
        plan["configurations"] for plan in stored["plans"][:: len(plan_paper.TOPOLOGIES)]
    ]
    assert all(plan["fits"] for plan in stored["plans"])


def test_a_figure_that_moved_is_named(plan_paper):
    before = {"peak_gib": 10.0, "bound": 50.0, "matmul_tflops": None}
    assert plan_paper.drifts(before, before | {"peak_gib": 10.29, "bound": 48.6}) == []
    assert plan_paper.drifts(before, before | {"peak_gib": 10.31}) == ["peak_gib was 10.0 and is 10.31"]
    assert plan_paper.drifts(before, before | {"matmul_tflops": 1.0}) == ["matmul_tflops was None and is 1.0"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_plans_of_the_paper_have_not_drifted(tmp_path):
    for name, shape in SHAPES.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps(shape))
    command = [sys.executable, str(ROOT / "scripts" / "plan_paper.py"), "--models", str(tmp_path)]
    found = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
