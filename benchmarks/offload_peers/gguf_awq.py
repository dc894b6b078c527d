"""Writes an AWQ checkpoint as GGUF without rounding its weights again, a tensor at a time.

    python -m benchmarks.offload_peers.gguf_awq CHECKPOINT OUT.gguf

Needs `gguf` and `numpy` and nothing else; run it with the interpreter that has llama-cpp-python. A matrix whose zero
points are all 8 becomes Q4_0, another one Q4_1 (whose minimum, scale times zero point, is rounded to half precision).
The embedding and the output projection become Q8_0.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf  # pyright: ignore[reportMissingImports] - of the interpreter that has llama-cpp-python
import numpy as np
import numpy.typing as npt
from gguf.utility import LocalTensor, SafetensorsLocal  # pyright: ignore[reportMissingImports]

from benchmarks.peers.gguf_convert import add_header, gguf_name, permuted, rope_factors, rope_parameters

Bytes = npt.NDArray[np.uint8]
Type: Any = gguf.GGMLQuantizationType

AWQ_COLUMN_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the nibbles of a word, lowest first
BLOCK = 32  # weights that share a scale in Q4_0 and Q4_1
ROWS = 8192  # of a vocabulary matrix that are converted at a time
NO_ZERO_POINT = 0x88888888


class Source:
    """Tensors of a safetensors checkpoint by name."""

    def __init__(self, folder: Path) -> None:
        """Read the headers."""
        self.tensors: dict[str, LocalTensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            self.tensors |= SafetensorsLocal(file).tensors

    def read(self, name: str) -> npt.NDArray[Any]:
        """A tensor; int32 words come unsigned."""
        tensor = self.tensors[name]
        dtype = {"F16": np.float16, "F32": np.float32, "I32": np.uint32}[tensor.dtype]
        return np.frombuffer(tensor.mmap_bytes(), dtype=dtype).reshape(tensor.shape)


def nibbles(words: npt.NDArray[np.uint32]) -> Bytes:
    """uint8 [R, N] of AWQ's words [R, N / 8]."""
    out = np.empty((*words.shape, 8), dtype=np.uint8)
    for place, column in enumerate(AWQ_COLUMN_ORDER):
        out[..., column] = (words >> np.uint32(4 * place)) & np.uint32(15)
    return out.reshape(len(words), -1)


def blocks(source: Source, layer: str, heads: int | None) -> Bytes:
    """Rows of blocks [N, bytes] of an AWQ layer; with `heads`, in the order that llama.cpp rotates in."""
    q = np.ascontiguousarray(nibbles(source.read(f"{layer}.qweight")).T)  # [N, K]
    words, scales = source.read(f"{layer}.qzeros"), source.read(f"{layer}.scales")
    spread = q.shape[1] // len(scales) // BLOCK
    scale = np.repeat(scales.T, spread, axis=1)  # [N, K / BLOCK]
    parts = [scale]
    if not centred(words):
        zeros = np.repeat(nibbles(words).T, spread, axis=1)
        parts.append((-scale.astype(np.float32) * zeros).astype(np.float16))
    halves = q.reshape(len(q), -1, 2, BLOCK // 2)
    packed = (halves[:, :, 0] | halves[:, :, 1] << 4).astype(np.uint8)
    headers = [np.ascontiguousarray(part)[..., None].view(np.uint8) for part in parts]
    rows: Bytes = np.concatenate([*headers, packed], axis=2).reshape(len(q), -1)
    return rows if heads is None else permuted(rows, heads)


def centred(words: npt.NDArray[np.uint32]) -> bool:
    """Whether all zero points are 8."""
    return bool((words == NO_ZERO_POINT).all())


def vocabulary(source: Source, name: str) -> Bytes:
    """A float matrix as rows of Q8_0."""
    table = source.read(name)
    parts = [table[start : start + ROWS].astype(np.float32) for start in range(0, len(table), ROWS)]
    return np.concatenate([gguf.quants.quantize(part, Type.Q8_0) for part in parts])


def plan(source: Source) -> Iterator[tuple[str, str, Any, tuple[int, ...]]]:
    """Each tensor to write: its source's name (a layer's, for AWQ), GGUF's name, type, and shape in bytes or floats."""
    for name in sorted(source.tensors, key=position):
        tensor = source.tensors[name]
        layer, _, part = name.rpartition(".")
        if part == "qweight":
            kind = Type.Q4_0 if centred(source.read(f"{layer}.qzeros")) else Type.Q4_1
            outputs, inputs = tensor.shape[1] * 8, tensor.shape[0]
            yield layer, gguf_name(f"{layer}.weight"), kind, (outputs, row_bytes(inputs, kind))
        elif part not in ("qzeros", "scales"):
            if len(tensor.shape) == 1:
                yield name, gguf_name(name), Type.F32, tensor.shape
            else:
                yield name, gguf_name(name), Type.Q8_0, (tensor.shape[0], row_bytes(tensor.shape[1], Type.Q8_0))


def position(name: str) -> tuple[int, str]:
    """Sorts tensors into the order of use, in which llama.cpp then reads the file."""
    parts = name.split(".")
    if parts[1] == "layers":
        return int(parts[2]), name
    return (-1 if parts[1] == "embed_tokens" else 1 << 30), name


def row_bytes(inputs: int, kind: Any) -> int:
    """Bytes of a row of `inputs` weights."""
    size, count = gguf.GGML_QUANT_SIZES[kind]
    return inputs // size * count


def convert(checkpoint: Path, out: Path) -> None:
    """Write `out`. Raises ValueError for a model that is not Llama."""
    config: Mapping[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    rope = rope_parameters(config)
    if config.get("model_type") != "llama" or rope["rope_type"] != "llama3":
        raise ValueError(f"{checkpoint}: only Llama models with RoPE of type llama3 are converted")
    source = Source(checkpoint)
    planned = list(plan(source))
    writer = gguf.GGUFWriter(out, "llama")
    add_header(writer, config, "q4_0")
    factors = rope_factors(rope, int(config["head_dim"]))
    writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for _, name, kind, shape in planned:
        dtype = np.dtype(np.float32 if kind == Type.F32 else np.uint8)
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.write_tensor_data(factors)
    for name, _, kind, _ in planned:
        if kind == Type.F32:
            writer.write_tensor_data(source.read(name).astype(np.float32))
        elif kind == Type.Q8_0:
            writer.write_tensor_data(vocabulary(source, name))
        else:
            heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
            writer.write_tensor_data(blocks(source, name, heads.get(name.rpartition(".")[2])))
    writer.close()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="folder with config.json and AWQ safetensors")
    parser.add_argument("out", type=Path, help="the GGUF file to write")
    arguments = parser.parse_args()
    convert(arguments.checkpoint, arguments.out)


if __name__ == "__main__":
    main()
