"""AutoAWQ, run on a CPU or the GPU it finds: what it needs, how it is called, and what it leaves wrong."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import TreelineError
from engine.extras import installing

VERSION = "0.2.9"
_SAMPLED_TOKENS = 512  # that its search for clipping looks at
_OUTPUTS = 256  # whose clipping it searches at a time, or 64


def require() -> None:
    """Raise TreelineError unless AutoAWQ can be imported."""
    try:
        with _quiet():
            import_module("awq")
    except ImportError as error:
        raise TreelineError(
            f"AutoAWQ cannot be imported ({error}): {installing('quantize')}, or without its GPU-only"
            f" dependencies: pip install --no-deps autoawq=={VERSION} && pip install accelerate datasets transformers"
        ) from None


def working_memory(rows: int, row: int, widest: int, features: int) -> int:
    """Bytes that the search over one layer takes in float32.

    `widest`: the most inputs of any linear layer; `features`: the inputs of all of a layer's linear layers together,
    which are kept for every one of `rows` rows of `row` tokens.
    """
    clipping = 4 * _OUTPUTS * _SAMPLED_TOKENS * widest * 4  # the products, their clipped twins, difference and square
    return clipping + 2 * rows * row * features * 4


def quantise(
    source: Path, rows: list[list[int]], group_size: int, progress: Callable[[str, int, int], None] | None
) -> dict[str, Tensor]:
    """Quantise the checkpoint `source`; returns AWQ "gemm" tensors by name, what stays dense in the source's dtype.

    Deterministic for the same rows. `progress` hears of every layer.
    """
    with _quiet():
        quantizer: Any = import_module("awq.quantize.quantizer")
        loader: Any = import_module("awq").AutoAWQForCausalLM
        torch.random.manual_seed(0)  # pyright: ignore[reportUnknownMemberType]
        model = loader.from_pretrained(
            str(source), torch_dtype=torch.float32, device_map="cpu", trust_remote_code=False, local_files_only=True
        )
        settings = {"zero_point": True, "q_group_size": group_size, "w_bit": 4, "version": "GEMM"}
        original = quantizer.tqdm
        quantizer.tqdm = _reporting(progress)
        try:
            model.quantize(
                None,  # no tokenizer: rows are token ids already
                quant_config=settings,
                calib_data=rows,
                max_calib_samples=len(rows),
                max_calib_seq_len=len(rows[0]),
                quantizer_cls=_mended(quantizer.AwqQuantizer),
            )
        finally:
            quantizer.tqdm = original
    return dict(model.model.state_dict())


def _reporting(progress: Callable[[str, int, int], None] | None) -> Callable[..., Iterator[Any]]:
    def bar(items: Iterable[Any], **_: Any) -> Iterator[Any]:
        layers = list(items)
        for number, layer in enumerate(layers):
            if progress:
                progress(f"layer {number + 1} of {len(layers)}", number, len(layers))
            yield layer

    return bar


def _mended(base: Any) -> Any:
    """AutoAWQ's AwqQuantizer, mended for the CPU.

    Its search for scales keeps ``v.cpu()`` of every weight to restore after each trial. On the CPU that is no copy, so
    the first trial's scales stay multiplied into the weights (measured on the bundled pair: +1.3 nats per token).
    """

    class CpuQuantizer(base):
        def _compute_best_scale(
            self, x: Any, w_mean: Any, x_mean: Any, module2inspect: Any, *rest: Any, **named: Any
        ) -> Any:
            saved = {name: tensor.clone() for name, tensor in module2inspect.state_dict().items()}
            module2inspect.state_dict = lambda: saved
            try:
                return base._compute_best_scale(self, x, w_mean, x_mean, module2inspect, *rest, **named)
            finally:
                del module2inspect.state_dict

    return CpuQuantizer


@contextmanager
def _quiet() -> Generator[None]:
    """Keep AutoAWQ's farewell, transformers' advice and every thought of a download off the terminal."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    before = {name: os.environ.get(name) for name in (*offline, "TRANSFORMERS_VERBOSITY")}
    os.environ.update(offline, TRANSFORMERS_VERBOSITY="error")
    level = logging.getLogger("transformers").level
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True):  # recorded, because AutoAWQ's import undoes every filter
            yield
    finally:
        logging.getLogger("transformers").setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
