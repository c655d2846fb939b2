"""safetensors files, written and read by our own code, are those of the library."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rational_jax.errors import UserError
from rational_jax.hub import tensor_files
from rational_jax.hub.tensor_files import Stored, TensorFiles, in_file_order, read_header, write_tensors

CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "uint8": "U8"}


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Every dtype, odd sizes, names that JSON has to escape, a scalar, an empty tensor."""
    random = np.random.default_rng(0)
    shapes = {"b": (3, 5), "a": (7,), 'quoted "é"': (2, 3, 5), "scalar": (), "empty": (0, 4), "model.layers.10.x": (1,)}
    return {
        f"{name} {dtype}": random.standard_normal(shape).astype(jnp.dtype(dtype))
        for name, shape in shapes.items()
        for dtype in CODES
    }


def stored(array: np.ndarray) -> Stored:
    return Stored(None, CODES[str(array.dtype)], array.shape)


def test_bytes_are_those_of_the_library(arrays, tmp_path):
    save_file(arrays, tmp_path / "theirs", metadata={"format": "pt"})
    tensors = {name: stored(array) for name, array in arrays.items()}

    def parts():
        for name in in_file_order(tensors):
            rows = arrays[name].reshape(-1)
            yield from (rows[:4], rows[4:])

    digest = write_tensors(tmp_path / "ours", tensors, parts())
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert digest == tensor_files.hashlib.sha256((tmp_path / "theirs").read_bytes()).hexdigest()


def test_too_little_data_is_an_error(arrays, tmp_path):
    array = arrays["b float32"]
    with pytest.raises(ValueError, match="promises 60 bytes of data, 48 were given"):
        write_tensors(tmp_path / "file", {"b": stored(array)}, [array[:2], array[2:, :2]])


def test_rows_are_those_of_the_library(arrays, tmp_path):
    save_file(arrays, tmp_path / "model.safetensors")
    files, theirs = TensorFiles(tmp_path), load_file(tmp_path / "model.safetensors")
    assert files.names() == set(theirs)
    for name, array in theirs.items():
        assert b"".join(part.tobytes() for part in files.raw(name, most=7)) == array.tobytes()
        if array.ndim and jnp.issubdtype(array.dtype, jnp.floating):
            for start, stop in ((0, len(array)), (0, len(array) // 2), (len(array) // 2, len(array))):
                found = files.rows(name, start, stop)
                assert found.dtype == array.dtype and found.shape == array[start:stop].shape
                assert found.tobytes() == array[start:stop].tobytes()


def edited(file, change) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header["b float32"])
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:6]),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes() + b"x"),
        lambda file: file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:]),
        lambda file: file.write_bytes((12).to_bytes(8, "little") + file.read_bytes()[8:]),
        lambda file: edited(file, lambda entry: entry.pop("shape")),
        lambda file: edited(file, lambda entry: entry.update(shape=[3, 6])),
        lambda file: edited(file, lambda entry: entry.update(data_offsets=[0, 10**9])),
    ],
)
def test_damage_is_found_in_the_header(arrays, tmp_path, damage):
    file = tmp_path / "model.safetensors"
    save_file({"b float32": arrays["b float32"]}, file)
    damage(file)
    with pytest.raises(UserError, match="is damaged or cut short") as caught:
        read_header(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)
