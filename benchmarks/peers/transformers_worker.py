"""transformers under the measuring protocol: `generate`, plain or assisted by a draft model.

Settings of a job: `model` and, for assisted generation, `assistant` (folders of plain checkpoints), `dtype`,
`assistant_tokens` (a number), `schedule` ("constant", "heuristic_transient" ...), `confidence` (threshold at which the
assistant stops, 0: never), or `lookup` (prompt lookup: number of tokens). `disk`: accelerate reads the layers from the
checkpoint whenever they are needed.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, cast

import torch
import transformers

from benchmarks.peers.protocol import Job, Reply, serve


class Watch:
    """A streamer: notes when tokens come out. Its first call brings the prompt."""

    def __init__(self) -> None:
        """Start the clock."""
        self.began = time.perf_counter()
        self.times: list[float] = []
        self.counts: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, then the tokens of each pass."""
        self.times.append(time.perf_counter() - self.began)
        self.counts.append(value.numel())

    def end(self) -> None:
        """Nothing is buffered."""

    def stop_after(self, seconds: float) -> transformers.StoppingCriteria:
        """Tell `generate` to end when so much time has gone by since the first pass."""
        watch = self

        class Late(transformers.StoppingCriteria):
            def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
                late = len(watch.times) > 1 and time.perf_counter() - watch.began - watch.times[1] > seconds
                return torch.full((len(input_ids),), late)

        return Late()


class Backend:
    """Loads each folder once per dtype."""

    def __init__(self) -> None:
        """Models are loaded when a job first needs them."""
        # Any: transformers' models are typed too loosely to call generate under strict checking
        self._models: dict[tuple[str, str, bool], Any] = {}

    def complete(self, job: Job) -> Reply:
        """`generate`, greedy, from an empty cache."""
        settings = job.settings
        dtype = str(settings.get("dtype", "float32"))
        model = self._model(str(settings["model"]), dtype, bool(settings.get("disk")))
        watch = Watch()
        options: dict[str, Any] = {}
        if "assistant" in settings:
            assistant = self._model(str(settings["assistant"]), dtype)
            # set before every job: the heuristic schedules change them
            assistant.generation_config.num_assistant_tokens = int(settings["assistant_tokens"])
            assistant.generation_config.num_assistant_tokens_schedule = str(settings["schedule"])
            assistant.generation_config.assistant_confidence_threshold = float(settings["confidence"])
            options["assistant_model"] = assistant
        if "lookup" in settings:
            options["prompt_lookup_num_tokens"] = int(settings["lookup"])
        if "seconds" in settings:
            options["stopping_criteria"] = [watch.stop_after(job.seconds)]
        prompt = torch.tensor([job.prompt])
        mask = torch.ones_like(prompt)
        with torch.inference_mode():
            output = model.generate(
                prompt, attention_mask=mask, max_new_tokens=job.max_tokens, do_sample=False, streamer=watch, **options
            )
        total = time.perf_counter() - watch.began
        tokens = cast(list[int], output[0, len(job.prompt) :].tolist())
        return Reply(tuple(tokens), watch.counts[1], watch.times[1], total, len(watch.times) - 1)

    def _model(self, folder: str, dtype: str, disk: bool = False) -> Any:
        key = folder, dtype, disk
        if key not in self._models:
            auto: Any = transformers.AutoModelForCausalLM
            how = {"device_map": disk_map(folder)} if disk else {}
            model = auto.from_pretrained(folder, dtype=getattr(torch, dtype), **how).eval()
            model.generation_config.eos_token_id = None  # every peer writes exactly max_tokens
            model.generation_config.pad_token_id = 0
            self._models[key] = model
        return self._models[key]


def disk_map(folder: str) -> dict[str, str]:
    """Where accelerate keeps the parts of a Llama: all weights that a pass reads whole stay on the disk."""
    layers = transformers.AutoConfig.from_pretrained(folder).num_hidden_layers
    on_disk = ["model.embed_tokens", *(f"model.layers.{index}" for index in range(layers)), "lm_head"]
    return {"model.norm": "cpu", "model.rotary_emb": "cpu", **dict.fromkeys(on_disk, "disk")}


def main() -> None:
    """Worker process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, required=True, help="threads of torch")
    torch.set_num_threads(parser.parse_args().threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    serve({"transformers": transformers.__version__, "torch": torch.__version__}, Backend().complete)


if __name__ == "__main__":
    main()
