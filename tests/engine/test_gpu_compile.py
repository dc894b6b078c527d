"""Every GPU kernel compiles, to machine code that uses tensor cores, for GPUs that are not here.

The interpreter takes Python that the compiler does not. This runs in a process of its own, which does not interpret.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("capability", [86, 120])
def test_kernels_compile(capability: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.engine.gpu_compile", str(capability)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    products = json.loads(done.stdout)
    assert set(products) == {
        "add_norm",
        "attend_prefix",
        "attend_rest",
        "dense_product",
        "int4_expand",
        "int4_product",
        "rotate_and_store",
        "silu_and_multiply",
    }
    assert {name for name, count in products.items() if count} == {
        "attend_prefix",
        "attend_rest",
        "dense_product",
        "int4_product",
    }
