"""`treeline bench replay` through the real server and the real engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.bench_replay_report import WITHOUT_PASS
from lsp_server import outcomes

PREFIX = "import os\n\n\ndef read_lines(path):\n    with open(path) as file:\n        lines = file.readlines()\n    "
EXPECTED = "result = []\n    for line in lines:\n        result.append(line)\n    return result"


@pytest.mark.parametrize("client", ["vscode", "neovim"])
def test_a_case_is_typed_to_its_end(tmp_path: Path, client: str) -> None:
    case = {"id": "a", "language": "python", "path": "pkg/a.py", "prefix": PREFIX, "suffix": "\n", "expected": EXPECTED}
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps(case) + "\n")
    command = [sys.executable, "-m", "engine", "bench", "replay", "--cases", str(cases), "--gap-scale", "0.2", "--json"]
    done = subprocess.run([*command, "--client", client, "--starts", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert answer["cases"] == 1
    assert answer["stale"] == answer["jumping"] == answer["requests_failed"] == answer["texts_differing"] == 0
    assert answer["requests"] == sum(answer["outcomes"].values()) > 50
    assert answer["characters_typed"] >= len(EXPECTED)
    assert answer["requests"] >= answer["without_pass"]["answered"] >= answer["without_pass_typing_along"]["answered"]
    assert answer["tokens"]["prompt"] > 0
    assert all(answer["memory_bytes"]["server"] + answer["memory_bytes"]["daemon"])
    assert len(answer["start_ms"]["all"]) == answer["settings"]["starts"] == 1


def test_the_report_means_the_servers_reasons() -> None:
    assert WITHOUT_PASS == outcomes.WITHOUT_PASS
