"""Treeline, transformers and llama.cpp on the same weights and the same prompts, in one run.

    python -m benchmarks.peers --cases cases.jsonl --limit 100 --llama-python ~/llama/bin/python

All peers get the same token ids (Treeline's own prompt), decode greedily from a cold cache, write exactly --max-tokens
tokens (end tokens are ignored) and use the same number of threads. The target is Treeline's AWQ checkpoint, dequantised
for transformers and written as Q4_0 for llama.cpp. Each peer first picks its fastest settings on a few of the cases.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, environment, print_environment, print_json
from benchmarks.peers import rows as peer_rows
from benchmarks.peers.measure import Prompt, Workers, agreement, measure, tune
from benchmarks.peers.protocol import Job, Worker
from benchmarks.peers.report import as_json, make_row, print_report, ratios
from benchmarks.peers.rows import Checkpoints, Peer
from engine.bench import Case, read_cases
from engine.config import EngineConfig
from engine.errors import TreelineError
from engine.hub import Pair, resolve_pair
from engine.layouts import choose_layout
from engine.model.config import ModelConfig
from engine.prompt import build_prompt
from engine.request import CompletionRequest
from engine.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    cases: Path
    limit: int | None
    max_tokens: int
    model: str
    drafter: str
    threads: int
    llama_python: str | None
    tuning_cases: int
    json: bool


def parse_arguments() -> Options:
    """Read the command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=summary, epilog=rest)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--cases", type=Path, required=True, help="JSON Lines, as for `treeline bench decode`")
    add("--limit", type=int, help="the first N cases only")
    add("--max-tokens", type=int, default=48, help="tokens of every completion (default: 48)")
    add("--model", default="bundled", help="preset or checkpoint folder (default: the bundled pair)")
    add("--drafter", default="auto", help='checkpoint folder, "auto" or "none"')
    add("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of every peer (default: all)")
    add("--llama-python", help="an interpreter that has llama-cpp-python and gguf; without it llama.cpp is left out")
    add("--tuning-cases", type=int, default=4, help="cases on which a peer's settings are chosen (default: 4)")
    add("--json", action="store_true", help="print one JSON object instead of tables")
    return Options(**vars(parser.parse_args()))


def make_prompts(cases: Sequence[Case], pair: Pair, max_tokens: int) -> list[Prompt]:
    """Token ids of every case, laid out by Treeline; token healing, which the others lack, is left out."""
    tokenizer = Tokenizer.load(pair.target)
    layout = choose_layout(tokenizer, None)
    context = ModelConfig.load(pair.target).max_position_embeddings
    requests = [
        CompletionRequest(
            prefix=case.prefix, suffix=case.suffix, path=case.path, language=case.language, max_tokens=max_tokens
        )
        for case in cases
    ]
    prompts = [build_prompt(request, tokenizer, layout, context) for request in requests]
    return [prompt.ids + prompt.dropped for prompt in prompts]


def convert(pair: Pair, folder: Path, llama_python: str | None) -> Checkpoints:
    """Write the pair's weights in every form that a peer needs."""
    from benchmarks.peers.weights import export

    sources = {"target": pair.target} | ({"drafter": pair.drafter} if pair.drafter else {})
    for name, source in sources.items():
        export(source, folder / name)
    drafter = folder / "drafter" if pair.drafter else None
    if not llama_python:
        return Checkpoints(folder / "target", drafter)

    def to_gguf(name: str, kind: str) -> Path:
        out = folder / f"{name}-{kind}.gguf"
        command = [llama_python, "-m", "benchmarks.peers.gguf_convert", str(folder / name), str(out), "--type", kind]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
        return out

    to_gguf("target", "f32")
    pure = to_gguf("target", "q4_0_pure")
    return Checkpoints(
        folder / "target", drafter, to_gguf("target", "q4_0"), pure, to_gguf("drafter", "q4_0") if drafter else None
    )


def start_workers(stack: ExitStack, options: Options, pair: Pair, context: int) -> Workers:
    """One process per library; they end with the stack."""
    pair_arguments = ["--target", str(pair.target)] + (["--drafter", str(pair.drafter)] if pair.drafter else [])
    kinds: dict[str, tuple[str, str, list[str]]] = {
        peer_rows.TREELINE: (sys.executable, "treeline_worker", pair_arguments),
        peer_rows.TRANSFORMERS: (sys.executable, "transformers_worker", []),
    }
    if options.llama_python:
        kinds[peer_rows.LLAMA] = (options.llama_python, "llama_worker", ["--context", str(context)])
    return {
        name: stack.enter_context(Worker(python, f"benchmarks.peers.{module}", arguments, options.threads))
        for name, (python, module, arguments) in kinds.items()
    }


def conversion_check(
    workers: Workers, folder: Path, prompts: Sequence[Prompt], reference: Sequence[Sequence[int]]
) -> str:
    """How far llama.cpp follows transformers when both compute on unrounded weights: tells a wrong conversion."""
    settings = {"model": str(folder / "target-f32.gguf"), "kv": "f32"}
    llama = workers[peer_rows.LLAMA]
    counts = [
        agreement(llama.complete(Job(prompt, len(expected), settings)).tokens, expected)
        for prompt, expected in zip(prompts, reference, strict=True)
    ]
    return f"{sum(counts)} of {sum(map(len, reference))} tokens before the first difference, {len(counts)} cases"


def compare(options: Options, folder: Path) -> dict[str, Any]:
    """The whole benchmark; returns the JSON object."""
    config = EngineConfig(model=options.model, drafter=options.drafter)
    pair = resolve_pair(config)
    cases = read_cases(options.cases, options.limit)
    prompts = make_prompts(cases, pair, options.max_tokens)
    note(f"{len(prompts)} cases; writing the weights for the peers")
    weights = convert(pair, folder, options.llama_python)
    context = max(map(len, prompts)) + options.max_tokens + 64  # room for draft tokens beyond the last one
    with ExitStack() as stack:
        workers = start_workers(stack, options, pair, context)
        plain = {"model": str(weights.target), "dtype": "float32"}
        reference = [
            workers[peer_rows.TRANSFORMERS].complete(Job(p, options.max_tokens, plain)).tokens for p in prompts
        ]
        peers: list[Peer] = [
            *peer_rows.treeline_peers(),
            *peer_rows.transformers_peers(weights),
            *peer_rows.llama_peers(weights),
        ]
        few = prompts[: options.tuning_cases]
        tuned = [tune(workers, peer, few, options.max_tokens) for peer in peers]
        note("settings chosen; measuring")
        progress = Progress(len(prompts))
        run = measure(workers, tuned, prompts, options.max_tokens, progress.advance)
        table = [make_row(row, run.replies[row.peer.name], reference) for row in tuned]
        found = ratios(table, run)
        checked = conversion_check(workers, folder, few, reference[: len(few)]) if options.llama_python else None
        versions = {name: dict(worker.versions) for name, worker in workers.items()}
    if not options.json:
        print_report(table, found, len(prompts))
    lengths = sorted(map(len, prompts))
    return {
        "cases": len(prompts), "max_tokens": options.max_tokens, "threads": options.threads,
        "prompt_tokens": {"median": lengths[len(lengths) // 2], "max": lengths[-1]},
        "llama_cpp_float32_agreement": checked, "versions": versions, **as_json(table, found, run),
    }  # fmt: skip


class Progress:
    """Cases done, on standard error, only for a terminal."""

    def __init__(self, total: int) -> None:
        """Count to `total`."""
        self._total, self._done = total, 0

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        if sys.stderr.isatty():
            print(
                f"\r{self._done}/{self._total}",
                end="" if self._done < self._total else "\n",
                file=sys.stderr,
                flush=True,
            )


def note(text: str) -> None:
    """What is going on, on standard error."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Command line."""
    options = parse_arguments()
    try:
        with tempfile.TemporaryDirectory(prefix="treeline-peers-") as folder:
            result = compare(options, Path(folder))
    except (TreelineError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    where = environment()
    if options.json:
        print_json({**result, "environment": where})
        return
    length = result["prompt_tokens"]
    print(f"\n{result['cases']} cases of {result['max_tokens']} tokens, {result['threads']} threads for every peer")
    print(f"prompts: {length['median']} tokens at the median, at most {length['max']}")
    if result["llama_cpp_float32_agreement"]:
        print(f"llama.cpp in float32 against transformers in float32: {result['llama_cpp_float32_agreement']}")
    print("; ".join(f"{name}: {versions}" for name, versions in result["versions"].items()))
    print_environment(where)


if __name__ == "__main__":
    main()
