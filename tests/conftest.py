"""What holds for every test: nothing is fetched from a model hub, property tests are repeatable, a GPU is optional."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in its background
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TREELINE_DAEMON"] = "false"  # tests of the daemon start their own, in folders of their own
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # worker threads and forked processes do not mix
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported, by whichever library

# No deadline: how long an example takes depends on what else the machine does. `--hypothesis-profile=explore` draws new
# examples at each run; the default ones are the same for everybody, so that a failure can be reproduced.
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("repeatable")

# Of what runs whole processes: their own time limits may pass on a busy machine. What is wrong fails again, and each
# further try is listed at the end of the run.
RERUNS = {"e2e": 2, "chat": 1, "lsp_server": 1, "server": 1}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give such tests further tries."""
    here = Path(__file__).parent
    for item in items:
        reruns = RERUNS.get(item.path.relative_to(here).parts[0])
        if reruns:
            item.add_marker(pytest.mark.flaky(reruns=reruns))
