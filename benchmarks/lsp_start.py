"""How long the language server takes from the start of its process to the answer of `initialize`.

    python -m benchmarks.lsp_start [--runs 20] [--json]

No daemon runs before, and none is started: that begins with `initialized`. The first runs fill the disk's cache and
are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

WARM_UP = 2
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "processId": None,
        "rootUri": None,
        "capabilities": {
            "general": {"positionEncodings": ["utf-16"]},
            "textDocument": {"inlineCompletion": {}, "synchronization": {"didSave": True}},
            "window": {"workDoneProgress": True},
            "workspace": {"configuration": True, "workspaceFolders": True},
        },
    },
}


def measure(environment: dict[str, str]) -> float:
    """Return the milliseconds of one start."""
    body = json.dumps(INITIALIZE).encode()
    began = time.perf_counter()
    command = [sys.executable, "-I", "-m", "lsp_server"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        server.stdin.flush()
        header = server.stdout.readline()
        answered = time.perf_counter()
        assert header.startswith(b"Content-Length"), header
        server.stdin.close()
        server.stdout.read()
    return 1000 * (answered - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="all numbers, for other programs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"TREELINE_RUNTIME_DIR": folder}
        times = [measure(environment) for _ in range(WARM_UP + options.runs)][WARM_UP:]
    result = {
        "median_ms": round(statistics.median(times), 1),
        "fastest_ms": round(min(times), 1),
        "slowest_ms": round(max(times), 1),
        "runs": options.runs,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    if options.json:
        print(json.dumps(result | {"times_ms": [round(each, 1) for each in times]}))
    else:
        print("from process start to initialize answered: median {median_ms} ms".format(**result), end=" ")
        print(
            "(fastest {fastest_ms}, slowest {slowest_ms}; {runs} runs, Python {python}, {cores} cores)".format(**result)
        )


if __name__ == "__main__":
    main()
