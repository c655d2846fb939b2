import dataclasses

import jax
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from rational_jax.errors import UserError
from rational_jax.parallel import FSDP, AxisRules, make_mesh, shardings
from rational_jax.parallel.mesh import AXES


@pytest.fixture
def mesh():
    return jax.sharding.AbstractMesh((1, 4, 1, 1, 2), AXES, axis_types=(AxisType.Auto,) * 5)


def test_matrices_are_split_on_both_sides(mesh):
    shapes = {"q": jax.ShapeDtypeStruct((3, 8, 16), "float32")}
    placed = shardings(mesh, AxisRules(), shapes, {"q": ("layers", "heads", "embed")})
    assert placed["q"].spec == PartitionSpec(None, "tensor", FSDP)


def test_an_indivisible_axis_is_named(mesh):
    shapes = {"mlp": {"up": jax.ShapeDtypeStruct((7, 16), "float32")}}
    with pytest.raises(UserError, match=r"mlp\.up: axis 'mlp' of size 7 .* 2 devices"):
        shardings(mesh, AxisRules(), shapes, {"mlp": {"up": ("mlp", "embed")}})


def test_colliding_rules_are_refused():
    rules = dataclasses.replace(AxisRules(), mlp="fsdp")
    with pytest.raises(UserError, match="'fsdp'"):
        rules.spec(("mlp", "embed"))


def test_one_size_takes_what_is_left():
    count = len(jax.devices())
    assert tuple(make_mesh(fsdp=-1).shape.values()) == (1, count, 1, 1, 1)
    assert tuple(make_mesh(replica=2, fsdp=(2, -1)).shape.values()) == (2, 2, count // 4, 1, 1)
    assert isinstance(make_mesh(replica=-1, fsdp=1), Mesh)


@pytest.mark.parametrize(
    "sizes",
    [
        {"fsdp": -1, "tensor": -1},
        {"fsdp": (-1, -1)},
        {"fsdp": (2, 1, 1, 4)},
        {"fsdp": 1000},
        {"fsdp": -1, "tensor": 1000},
    ],
)
def test_impossible_meshes_are_refused(sizes):
    with pytest.raises(UserError, match="mesh"):
        make_mesh(**sizes)
