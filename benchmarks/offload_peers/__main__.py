"""Treeline, llama.cpp, accelerate and AirLLM on weights larger than the memory they may use, in one run.

    python -m benchmarks.offload_peers --model big/llama-3.1-8b --drafter big/codedrafter-500m --work big/peers
        --cases runs/cases.jsonl --llama-python ~/llama/bin/python --airllm-python ~/airllm/bin/python

Every peer runs in a memory control group of --memory, which counts the page cache of what it reads as well, with its
files dropped from the page cache before it starts; one peer after the other, on the same token ids, greedily. It begins
no pass --seconds after the first. Needs root, and Linux. --model is a checkpoint of benchmarks.make_checkpoint; its
forms for the other libraries are kept in --work. Rates leave out the first pass, which reads the prompt.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, environment, print_environment, print_json
from benchmarks.offload_peers.memory_group import MemoryGroup, forget_files
from benchmarks.offload_peers.report import Row, make_row, print_report
from benchmarks.offload_peers.sixteen_bit import write_sixteen_bit
from benchmarks.peers.__main__ import make_prompts, note
from benchmarks.peers.measure import Prompt
from benchmarks.peers.protocol import Job, Reply, Worker
from engine.bench import read_cases
from engine.config import parse_size
from engine.errors import TreelineError
from engine.hub import Pair

SLACK_S = 600  # for loading and reading a prompt, before a peer is given up


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    model: Path
    drafter: Path
    cases: Path
    work: Path
    prompts: int
    prompt_tokens: int
    max_tokens: int
    seconds: float
    memory: str
    threads: int
    llama_python: str | None
    airllm_python: str | None
    only: str
    json: bool

    @property
    def context(self) -> int:
        """Tokens that caches need room for: drafts may go beyond the last token."""
        return self.prompt_tokens + self.max_tokens + 64


@dataclass(frozen=True, slots=True)
class Peer:
    """A row of the table: a worker, what it is started with, the settings of its jobs, and the files that it reads."""

    name: str
    python: str
    module: str
    arguments: Sequence[str]
    settings: Mapping[str, Any]
    files: Path


def parse_arguments() -> Options:
    """Read the command line."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offload_peers", description=summary, epilog=rest)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--model", type=Path, required=True, help="a checkpoint of benchmarks.make_checkpoint, AWQ")
    add("--drafter", type=Path, required=True, help="its drafter, for those that speculate")
    add("--cases", type=Path, required=True, help="JSON Lines, as for `treeline bench decode`")
    add("--work", type=Path, required=True, help="folder for the weights in the other libraries' formats")
    add("--prompts", type=int, default=3, help="how many cases (default: 3)")
    add("--prompt-tokens", type=int, default=128, help="only cases with at most so many tokens (default: 128)")
    add("--max-tokens", type=int, default=32, help="tokens of every completion at most (default: 32)")
    add("--seconds", type=float, default=60, help="begin no pass of a prompt so long after its first (default: 60)")
    add("--memory", default="2GiB", help="limit of every peer, page cache included (default: 2GiB)")
    add("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads of every peer (default: all)")
    add("--llama-python", help="an interpreter that has llama-cpp-python and gguf; without it llama.cpp is left out")
    add("--airllm-python", help="an interpreter that has airllm and what it needs; without it AirLLM is left out")
    add("--only", default="", help="only peers whose name contains this")
    add("--json", action="store_true", help="print one JSON object instead of a table")
    return Options(**vars(parser.parse_args()))


def choose_prompts(options: Options) -> list[Prompt]:
    """The first cases that are short enough. Raises TreelineError if there are too few."""
    pair = Pair(options.model, options.drafter)
    prompts = make_prompts(read_cases(options.cases, None), pair, options.max_tokens)
    short = [prompt for prompt in prompts if len(prompt) <= options.prompt_tokens][: options.prompts]
    if len(short) < options.prompts:
        raise TreelineError(f"{options.cases} has {len(short)} prompts of at most {options.prompt_tokens} tokens")
    return short


def treeline(options: Options) -> list[Peer]:
    """Treeline within the limit, less what the kernel charges to the group; alone, and with the drafter."""
    memory = parse_size(options.memory) * 31 // 32
    alone = ["--target", str(options.model), "--memory", str(memory), "--context", str(options.context)]
    pair = [*alone, "--drafter", str(options.drafter)]
    worker = "benchmarks.peers.treeline_worker"
    return [
        Peer("Treeline", sys.executable, worker, pair, {"speculation": True}, options.model),
        Peer("Treeline one by one", sys.executable, worker, alone, {"speculation": False}, options.model),
    ]


def llama(options: Options) -> list[Peer]:
    """llama.cpp, weights mapped and used as they lie in the file, alone and with the drafter."""
    if not options.llama_python:
        return []
    folder = options.work / "gguf"
    files = {"target": ("offload_peers.gguf_awq", options.model), "draft": ("peers.gguf_convert", options.drafter)}
    for name, (module, source) in files.items():
        if not (folder / f"{name}.gguf").exists():
            note(f"writing {folder / name}.gguf")
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f"{name}.unfinished"
            command = [options.llama_python, "-m", f"benchmarks.{module}", str(source), str(unfinished)]
            subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
            unfinished.rename(folder / f"{name}.gguf")
    plain: dict[str, Any] = {"model": str(folder / "target.gguf"), "repack": False, "flash_attention": True}
    draft = {**plain, "draft": str(folder / "draft.gguf")}
    kinds = [("", plain), *((f", {count} drafted", {**draft, "draft_tokens": count}) for count in (4, 8, 16))]
    worker = "benchmarks.peers.llama_worker"
    return [
        Peer(f"llama.cpp{name}", options.llama_python, worker, ["--context", str(options.context)], settings, folder)
        for name, settings in kinds
    ]


def sixteen_bit(options: Options) -> list[Peer]:
    """Libraries that stream 16-bit weights: as many bytes, fewer layers."""
    folder = options.work / "bfloat16"
    if not folder.exists():
        note(f"writing {folder}")
        write_sixteen_bit(options.model, folder)
    settings: dict[str, Any] = {"model": str(folder), "dtype": "bfloat16", "disk": True}
    peers = [Peer("accelerate", sys.executable, "benchmarks.peers.transformers_worker", [], settings, folder)]
    if options.airllm_python:
        split = options.work / "airllm"
        settings = {"model": str(folder), "split": str(split)}
        peers.append(
            Peer("AirLLM", options.airllm_python, "benchmarks.offload_peers.airllm_worker", [], settings, split)
        )
    return peers


def run(peer: Peer, prompts: Sequence[Prompt], reference: Sequence[Sequence[int]], options: Options) -> Row:
    """Run a peer within the limit; what it did not manage is told in the row."""
    note(peer.name)
    forget_files(peer.files)
    replies: list[Reply] = []
    versions: Mapping[str, str] = {}
    error: str | None = None
    with MemoryGroup("peer", parse_size(options.memory)) as group:
        patience = threading.Timer(SLACK_S + options.seconds * len(prompts), group.kill)
        patience.start()
        try:
            with Worker(peer.python, peer.module, peer.arguments, options.threads, group.command) as worker:
                versions = worker.versions
                for prompt in prompts:
                    job = Job(prompt, options.max_tokens, {**peer.settings, "seconds": options.seconds})
                    replies.append(worker.complete(job))
        except (RuntimeError, BrokenPipeError) as failure:
            error = f"{failure} (killed: out of memory, or of patience)" if "-9" in str(failure) else str(failure)
        finally:
            patience.cancel()
        return make_row(peer.name, replies, reference, (group.peak(), group.peak_anonymous()), versions, error)


def in_memory(prompts: Sequence[Prompt], options: Options) -> list[tuple[int, ...]]:
    """The tokens of Treeline without a limit and without speculation."""
    note("Treeline in memory")
    arguments = ["--target", str(options.model)]
    with Worker(sys.executable, "benchmarks.peers.treeline_worker", arguments, options.threads) as worker:
        jobs = [Job(prompt, options.max_tokens, {"speculation": False}) for prompt in prompts]
        return [worker.complete(job).tokens for job in jobs]


def main() -> None:
    """Command line."""
    options = parse_arguments()
    try:
        prompts = choose_prompts(options)
        peers = [*treeline(options), *llama(options), *sixteen_bit(options)]
        reference = in_memory(prompts, options)
        rows = [run(peer, prompts, reference, options) for peer in peers if options.only in peer.name]
    except (TreelineError, RuntimeError, subprocess.CalledProcessError, ValueError) as error:
        sys.exit(f"error: {error}")
    where = environment()
    if options.json:
        kept = {key: value for key, value in asdict(options).items() if key != "json"}
        print_json({"options": kept, "rows": rows, "environment": where})
        return
    print_report(rows)
    print(f"\n{len(prompts)} prompts, {options.memory} and {options.threads} threads for every peer")
    print_environment(where)


if __name__ == "__main__":
    main()
