"""AirLLM under the measuring protocol: transformers' `generate` over layers that it loads one after another.

Settings of a job: `model` (folder of a plain checkpoint) and `split` (folder for AirLLM's own copy, layer by layer).
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import Any

import airllm  # pyright: ignore[reportMissingImports] - of the interpreter that runs this worker
import torch
import transformers

from benchmarks.peers.protocol import Job, Reply, serve
from benchmarks.peers.transformers_worker import Watch


class Backend:
    """Loads a model at the first job, and keeps it."""

    def __init__(self) -> None:
        """Nothing is loaded yet."""
        self._model: Any = None  # AirLLM is untyped

    def complete(self, job: Job) -> Reply:
        """`generate`, greedy, from an empty cache."""
        if self._model is None:
            settings = job.settings
            self._model = airllm.AutoModel.from_pretrained(
                str(settings["model"]), layer_shards_saving_path=str(settings["split"]), device="cpu",
                dtype=torch.bfloat16,
            )  # fmt: skip
            self._model.generation_config.eos_token_id = None
            self._model.generation_config.pad_token_id = 0
        prompt = torch.tensor([job.prompt])
        watch = Watch()
        late = [watch.stop_after(job.seconds)]
        with torch.inference_mode():
            output = self._model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=job.max_tokens, do_sample=False,
                use_cache=True, streamer=watch, stopping_criteria=late,
            )  # fmt: skip
        tokens: list[int] = output[0, len(job.prompt) :].tolist()
        return Reply(tuple(tokens), watch.counts[1], watch.times[1], watch.times[-1], len(watch.times) - 1)


def main() -> None:
    """Worker process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, required=True, help="threads of torch")
    torch.set_num_threads(parser.parse_args().threads)
    transformers.logging.set_verbosity_error()
    serve(
        {"airllm": version("airllm"), "transformers": transformers.__version__, "torch": torch.__version__},
        Backend().complete,
    )


if __name__ == "__main__":
    main()
