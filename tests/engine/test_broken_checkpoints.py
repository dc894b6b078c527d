"""Broken checkpoints are refused in one line that names the fault, at once and without a large allocation.

The commonest faults are tried through the command line in test_bad_checkpoints.py; here are the odder ones, and values
and bytes drawn at random.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import TreelineError
from engine.model.loader import LoadOptions, load_transformer
from tests.engine.checkpoints import LLAMA3_ROPE, Made, configure

pytestmark = pytest.mark.usefixtures("one_thread")

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}
GIB = 2**30


@pytest.fixture(scope="module")
def good(checkpoint: Callable[[str], Made]) -> Path:
    return checkpoint("llama3-rope").directory


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


@contextmanager
def little_memory() -> Iterator[None]:
    """Let the process ask for no more than another GiB: a size read from a file must not become an allocation."""
    resource = pytest.importorskip("resource", reason="memory limits are POSIX's")
    old = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + GIB if pages else old[0], old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


def complaint(directory: Path) -> str:
    """Load what cannot be loaded; the one line that says so."""
    with little_memory(), pytest.raises(TreelineError) as caught:
        load_transformer(directory, LoadOptions())
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 400 + len(str(directory))
    return line


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "not a number": ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
    "infinite": ({"rope_parameters": {"rope_theta": float("inf")}}, "rope_parameters.rope_theta is inf"),
    "beyond floats": ({"rms_norm_eps": 10**400}, "rms_norm_eps is 1000"),
    "absurd layers": ({"num_hidden_layers": 10**6}, "tensor model.layers.3."),
    "absurd width": ({"hidden_size": 2**30}, "has shape"),
    "absurd vocabulary": ({"vocab_size": 2**31 - 1}, "has shape"),
    "absurd context": ({"max_position_embeddings": 10**9}, "max_position_embeddings is 1000000000: at most"),
    "absurd heads": ({"num_attention_heads": 2**20, "num_key_value_heads": 1, "head_dim": None}, "head_dim is 0"),
    "beyond 32 bits": ({"vocab_size": 10**30}, "vocab_size is 1000"),
    "fraction": ({"num_hidden_layers": 2.0}, "num_hidden_layers is 2.0: a whole number"),
    "true for a number": ({"num_hidden_layers": True}, "num_hidden_layers is True: a whole number"),
    "text for a flag": ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes': true or false"),
    "list for a type": ({"dtype": ["float16"]}, "dtype is ['float16']: supported are bfloat16"),
    "object for a name": ({"model_type": {"llama": 1}}, "model_type is {'llama': 1}: supported are"),
    "odd heads": ({"head_dim": 15}, "head_dim is 15"),
    "rope is text": ({"rope_parameters": "llama3"}, "rope_parameters is 'llama3': an object"),
    "rope lacks a key": (
        {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
        "rope_parameters.low_freq_factor",
    ),
    "rope's bounds are equal": (
        {"rope_parameters": LLAMA3_ROPE | {"high_freq_factor": 1.0}},
        "high_freq_factor is 1.0",
    ),
    "bitsandbytes": ({"quantization_config": {"quant_method": "bitsandbytes", "bits": 4}}, "'bitsandbytes'"),
    "fp8": ({"quantization_config": {"quant_method": "fp8"}}, "quant_method is 'fp8': supported is AWQ, 4 bits"),
    "compressed": ({"quantization_config": {"quant_method": "compressed-tensors"}}, "'compressed-tensors'"),
    "8 bits": ({"quantization_config": AWQ | {"bits": 8}}, "quantization_config.bits is 8: supported is AWQ, 4 bits"),
    "gemv": ({"quantization_config": AWQ | {"version": "gemv"}}, "quantization_config.version is 'gemv'"),
    "no version": ({"quantization_config": AWQ | {"version": 3}}, "quantization_config.version is 3"),
    "whole rows": ({"quantization_config": AWQ | {"group_size": -1}}, "quantization_config.group_size is -1"),
    "names are text": (
        {"quantization_config": AWQ | {"modules_to_not_convert": "lm_head"}},
        "modules_to_not_convert is 'lm_head': a list of names",
    ),
    "quantised in name only": ({"quantization_config": AWQ}, "q_proj.qweight is missing"),
    "remote code": ({"auto_map": {"AutoConfig": "configuration_x.XConfig"}}, "never runs such code"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_bad_value_is_named(copy: Path, case: str) -> None:
    changes, expected = CONFIGS[case]
    configure(copy, **changes)
    line = complaint(copy)
    assert str(copy) in line
    assert expected in line


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, '{"a": ' + "1" * 5000 + "}", "\ufeff{}", "null", "NaN"], ids=lambda text: text[:8]
)
def test_a_config_that_is_no_object(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text, encoding="utf-8")
    assert "config.json" in complaint(copy)


def test_a_folder_that_is_none(copy: Path) -> None:
    assert "config.json does not exist" in complaint(copy / "nowhere")
    assert "config.json does not exist" in complaint(copy / "model.safetensors")
    (copy / "config.json").unlink()
    (copy / "config.json").mkdir()
    assert "config.json cannot be read" in complaint(copy)


INDICES: dict[str, tuple[object, str]] = {
    "outside": ("../model.safetensors", "names '../model.safetensors'"),
    "absolute": ("/etc/x.safetensors", "names '/etc/x.safetensors'"),
    "a number": (7, "names 7"),
    "a pickle": ("pytorch_model.bin", "names 'pytorch_model.bin'"),
    "itself": (".", "names '.'"),
    "long": ("x" * 5000 + ".safetensors", "names 'xxx"),
    "nul": ("\0.safetensors", "names '\\x00.safe"),
    "missing": ("model-00002-of-00002.safetensors", "model-00002-of-00002.safetensors is missing"),
    "list": (["model.safetensors"], "is not a safetensors index"),
}


def shard(directory: Path, names: object) -> Path:
    """Rename the weights as a shard and write an index that sends a tensor to each of `names`."""
    index = directory / "model.safetensors.index.json"
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    weight_map = {f"tensor{i}": name for i, name in enumerate(names if isinstance(names, list) else [names])}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("case", INDICES)
def test_an_index_that_names_no_shard(copy: Path, case: str) -> None:
    name, expected = INDICES[case]
    shard(copy, [name])
    assert expected in complaint(copy)


@pytest.mark.parametrize("text", ["[]", '{"weight_map": []}', '{"weight_map": 3}', "[" * 100_000, "\x00"])
def test_an_index_that_is_none(copy: Path, text: str) -> None:
    shard(copy, []).write_text(text)
    assert "model.safetensors.index.json is not a safetensors index" in complaint(copy)


def test_an_empty_index_leaves_tensors_missing(copy: Path) -> None:
    shard(copy, [])
    assert "tensor model.embed_tokens.weight is missing" in complaint(copy)


def safetensors(header: bytes, size: int | None = None, data: bytes = b"\0" * 8) -> bytes:
    """A file in safetensors layout whose header says what it likes; `size`: its length as stated."""
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8), name: str = "model.norm.weight") -> bytes:
    return json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


HEADERS = {
    "longer than the file": safetensors(entry(), size=2**60),
    "longer than any number": safetensors(entry(), size=2**64 - 1),
    "empty": safetensors(b""),
    "nested": safetensors(b"[" * 100_000),
    "shape beyond memory": safetensors(entry(shape=[2**40, 2**40])),
    "offsets beyond the file": safetensors(entry(shape=[2**40], offsets=[0, 2**42])),
    "offsets reversed": safetensors(entry(offsets=[8, 0])),
    "overlap": safetensors(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},' + entry()[1:]),
    "unknown type": safetensors(entry("F128")),
    "control characters": safetensors(entry(offsets=[8, 0], name="\x1b[31m\n\r")),
    "long name": safetensors(entry(offsets=[8, 0], name="n" * 10_000)),
    "bytes left over": safetensors(entry(), data=b"\0" * 9),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_corrupt_header(copy: Path, case: str) -> None:
    (copy / "model.safetensors").write_bytes(HEADERS[case])
    assert "model.safetensors is truncated or damaged" in complaint(copy)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F64", "BOOL", "C64"])
def test_a_type_of_number_that_is_not_supported(copy: Path, dtype: str) -> None:
    data = (copy / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    tensor = header["model.layers.0.input_layernorm.weight"]
    start, end = tensor["data_offsets"]
    width = {"F8_E4M3": 1, "F64": 8, "BOOL": 1, "C64": 8}[dtype]
    tensor |= {"dtype": dtype, "shape": [(end - start) // width]}
    (copy / "model.safetensors").write_bytes(safetensors(json.dumps(header).encode(), data=data[8 + size :]))
    line = complaint(copy)
    assert "input_layernorm.weight" in line
    assert "supported are float32" in line or "config.json asks for [64]" in line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*LLAMA3_ROPE, *AWQ]), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(max_examples=150)
@given(data=st.data())
def test_any_value_anywhere_in_the_config(
    good: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """It loads, or it is a TreelineError: nothing else is raised, whatever the value and its type."""
    original = json.loads((good / "config.json").read_text())
    keys = st.sampled_from([*sorted(original), "quantization_config", "rope_scaling", "sliding_window", "head_dim"])
    directory = tmp_path_factory.mktemp("any")
    (directory / "model.safetensors").symlink_to(good / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(original | {data.draw(keys): data.draw(JSON)}))
    loads_or_complains(directory)


@settings(max_examples=150)
@given(data=st.data())
def test_any_byte_anywhere_in_the_weights(
    good: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Bytes of the header changed, and the file cut anywhere."""
    weights = bytearray((good / "model.safetensors").read_bytes())
    header = 8 + struct.unpack("<Q", weights[:8])[0]
    for position in data.draw(st.lists(st.integers(0, header - 1), max_size=3)):
        weights[position] = data.draw(st.integers(0, 255))
    directory = tmp_path_factory.mktemp("any")
    shutil.copy(good / "config.json", directory)
    cut = data.draw(st.one_of(st.none(), st.integers(0, header), st.integers(header, len(weights))))
    (directory / "model.safetensors").write_bytes(weights[:cut])
    loads_or_complains(directory)


def loads_or_complains(directory: Path) -> None:
    with little_memory():
        try:
            load_transformer(directory, LoadOptions())
        except TreelineError as error:
            assert str(error).isprintable()  # noqa: PT017 - it need not be raised
