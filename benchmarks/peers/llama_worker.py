"""llama.cpp under the measuring protocol. Needs llama-cpp-python and numpy; never imports torch.

Calls llama.cpp's C functions directly: llama-cpp-python's own loop (a sampler chain, copies of the logits) would cost
it time that is not llama.cpp's. Settings of a job: `model` (a GGUF file), `flash_attention`, `n_batch`, `kv` ("f16" or
"f32"), `repack` (false: weights stay as they lie in the mapped file), and for speculation `draft` (a GGUF file) or
`lookup` (n-gram size), with `draft_tokens`.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llama_cpp  # pyright: ignore[reportMissingImports] - of the interpreter that runs this worker
import numpy as np
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding  # pyright: ignore[reportMissingImports]

from benchmarks.peers.protocol import Job, Reply, serve

GGML_TYPES: Mapping[str, int] = {"f32": 0, "f16": 1}


class Context:
    """One model and one context of llama.cpp: evaluates tokens after those it already holds."""

    def __init__(self, path: str, threads: int, n_ctx: int, settings: Mapping[str, Any]) -> None:
        """Load `path`; RuntimeError when llama.cpp refuses it."""
        # Any: llama-cpp-python's ctypes structures are untyped
        lib: Any = llama_cpp
        self._lib = lib
        loading = lib.llama_model_default_params()
        loading.use_extra_bufts = bool(settings.get("repack", True))
        self._model = lib.llama_model_load_from_file(path.encode(), loading)
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        params = lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = int(settings.get("n_batch", 512))
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1 if settings.get("flash_attention") else 0
        params.type_k = params.type_v = GGML_TYPES[settings.get("kv", "f16")]
        self._n_batch = params.n_batch
        self._context = lib.llama_init_from_model(self._model, params)
        self._memory = lib.llama_get_memory(self._context)
        self._vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._batch = lib.llama_batch_init(self._n_batch, 0, 1)
        self.tokens: list[int] = []

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        if length == 0:
            self._lib.llama_memory_clear(self._memory, False)
        elif length < len(self.tokens):
            self._lib.llama_memory_seq_rm(self._memory, 0, length, -1)
        del self.tokens[length:]

    def evaluate(self, tokens: Sequence[int], rows: int = 1) -> list[int]:
        """Append `tokens`; the most probable next token after each of the last `rows` of them (within one batch)."""
        choices: list[int] = []
        for start in range(0, len(tokens), self._n_batch):
            part = tokens[start : start + self._n_batch]
            outputs = [start + i >= len(tokens) - rows for i in range(len(part))]
            self._fill(part, outputs)
            status = self._lib.llama_decode(self._context, self._batch)
            if status != 0:
                raise RuntimeError(f"llama_decode returned {status} at {len(self.tokens)} tokens")
            choices.extend(self._argmax(i) for i, wanted in enumerate(outputs) if wanted)
            self.tokens.extend(part)
        return choices

    def _fill(self, tokens: Sequence[int], outputs: Sequence[bool]) -> None:
        self._batch.n_tokens = len(tokens)
        for i, (token, output) in enumerate(zip(tokens, outputs, strict=True)):
            self._batch.token[i] = token
            self._batch.pos[i] = len(self.tokens) + i
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0
            self._batch.logits[i] = output

    def _argmax(self, row: int) -> int:
        pointer = self._lib.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(pointer, shape=(self._vocabulary,)).argmax())


def autoregressive(target: Context, job: Job) -> Reply:
    """One token a pass."""
    began = time.perf_counter()
    target.truncate(0)
    tokens = target.evaluate(job.prompt)
    first = time.perf_counter() - began
    while len(tokens) < job.max_tokens and time.perf_counter() - began - first < job.seconds:
        tokens += target.evaluate(tokens[-1:])
    return Reply(tuple(tokens), 1, first, time.perf_counter() - began, len(tokens))


def speculative(target: Context, propose: Callable[[Sequence[int]], Sequence[int]], job: Job) -> Reply:
    """Check a chain from `propose` (given prompt and output so far) in one pass; the output is the target's own."""
    began = time.perf_counter()
    target.truncate(0)
    tokens = target.evaluate(job.prompt)
    first = time.perf_counter() - began
    passes = 1
    while len(tokens) < job.max_tokens and time.perf_counter() - began - first < job.seconds:
        draft = propose([*job.prompt, *tokens])
        choices = target.evaluate([tokens[-1], *draft], rows=len(draft) + 1)
        passes += 1
        accepted = 0
        while accepted < len(draft) and draft[accepted] == choices[accepted]:
            accepted += 1
        tokens += choices[: accepted + 1]
        target.truncate(len(job.prompt) + len(tokens) - 1)
    return Reply(tuple(tokens[: job.max_tokens]), 1, first, time.perf_counter() - began, passes)


def model_proposer(drafter: Context, count: int) -> Callable[[Sequence[int]], Sequence[int]]:
    """Greedy chains of `count` tokens from a draft model, whose cache follows what was accepted."""

    def propose(history: Sequence[int]) -> Sequence[int]:
        common = 0
        for ours, theirs in zip(drafter.tokens, history[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        drafter.truncate(common)
        chain = drafter.evaluate(history[common:])
        while len(chain) < count:
            chain += drafter.evaluate(chain[-1:])
        return chain

    return propose


def lookup_proposer(size: int, count: int) -> Callable[[Sequence[int]], Sequence[int]]:
    """llama-cpp-python's prompt lookup: what followed the last `size` tokens when they last occurred."""
    lookup = LlamaPromptLookupDecoding(max_ngram_size=size, num_pred_tokens=count)

    def propose(history: Sequence[int]) -> Sequence[int]:
        return [int(token) for token in lookup(np.array(history, dtype=np.intc))]

    return propose


class Backend:
    """Keeps one context per model and settings, so that changing them between jobs costs nothing that is measured."""

    def __init__(self, threads: int, n_ctx: int) -> None:
        """Contexts are made when a job first needs them."""
        self._threads, self._n_ctx = threads, n_ctx
        self._contexts: dict[tuple[object, ...], Context] = {}

    def complete(self, job: Job) -> Reply:
        """Run a job with the kind of speculation that its settings name."""
        settings = job.settings
        target = self._context("target", str(settings["model"]), settings)
        count = int(settings.get("draft_tokens", 0))
        if "draft" in settings:
            drafter = self._context("drafter", str(settings["draft"]), settings)
            drafter.truncate(0)
            return speculative(target, model_proposer(drafter, count), job)
        if "lookup" in settings:
            return speculative(target, lookup_proposer(int(settings["lookup"]), count), job)
        return autoregressive(target, job)

    def _context(self, role: str, path: str, settings: Mapping[str, Any]) -> Context:
        key = (role, path, settings.get("flash_attention"), settings.get("n_batch"), settings.get("kv"))
        if key not in self._contexts:
            self._contexts[key] = Context(path, self._threads, self._n_ctx, settings)
        return self._contexts[key]


def quiet() -> object:
    """Silence llama.cpp's log, errors excepted; keep the returned callback alive."""
    lib: Any = llama_cpp

    def log(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        if level == 4:  # GGML_LOG_LEVEL_ERROR
            print(text.decode(errors="replace"), end="", flush=True)

    callback = lib.llama_log_callback(log)
    lib.llama_log_set(callback, ctypes.c_void_p(0))
    return callback


def main() -> None:
    """Worker process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, required=True, help="threads of llama.cpp")
    parser.add_argument("--context", type=int, required=True, help="tokens of context")
    arguments = parser.parse_args()
    callback = quiet()
    features = llama_cpp.llama_print_system_info().decode()
    enabled = " ".join(part.split("=")[0].strip() for part in features.split("|") if part.strip().endswith("= 1"))
    serve({"llama-cpp-python": llama_cpp.__version__, "llama.cpp features": enabled},
          Backend(arguments.threads, arguments.context).complete)  # fmt: skip
    del callback


if __name__ == "__main__":
    main()
