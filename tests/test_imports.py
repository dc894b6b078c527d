"""The import rules hold, and the check that says so notices when they do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.import_rules import stale_exceptions, violations

ROOT = Path(__file__).parents[1]

PLANTED = [
    ("engine/speculation/tree.py", "from engine.model.config import ModelConfig", "engine.speculation must not depend"),
    ("engine/speculation/tree.py", "from ..model import config", "engine.speculation must not depend"),
    ("engine/speculation/tree.py", "from engine import helper", "engine.speculation must not depend"),
    ("engine/kernels/cpu.py", "import engine.model.config", "engine.kernels must not depend"),
    ("engine/model/config.py", "def f():\n    import engine.speculation.tree", "engine.model must not depend"),
    ("engine/request.py", "import engine.model.config", "engine.request must not depend"),
    ("engine/request.py", "import numpy", "standard library only"),
    ("engine/request.py", "import importlib\nimportlib.import_module('torch')", "standard library only"),
    ("engine/model/config.py", "import transformers", "only inside functions"),
    ("engine/model/config.py", "import rich.console", "does not depend on rich"),
    ("engine/model/config.py", "def f():\n    import engine.cli", "must not know the command line"),
    ("engine/model/config.py", "import lsp_server", "knows nothing of editors"),
    ("engine/model/config.py", "import torch\ntorch.cuda.synchronize()", "names CUDA"),
    ("engine/model/config.py", "device = 'cuda'", "names CUDA"),
    ("engine/config.py", "device = 'cuda:0'", "names CUDA"),
    ("engine/config.py", "def f(torch):\n    return torch.cuda", "names CUDA"),
    ("engine/model/config.py", "import starlette", "does not depend on starlette"),
    ("engine/server/app.py", "import httpx", "only inside functions"),
    ("engine/engine.py", "def f():\n    import engine.server.app", "engine.engine must not depend"),
    ("engine/client.py", "import httpx", "only inside functions"),
    ("engine/client.py", "def f():\n    import engine.server.app", "engine.client must not depend"),
    ("lsp_server/server.py", "from engine.helper import anything", "engine's clients alone"),
    ("lsp_server/server.py", "from engine import model", "engine's clients alone"),
    ("lsp_server/server.py", "import torch", "runs no model"),
]

ALLOWED = [
    ("engine/request.py", "from engine.errors import TreelineError"),
    ("engine/model/config.py", "import engine.kernels.cpu, torch, safetensors.torch"),
    ("engine/model/config.py", "def f():\n    import transformers"),
    ("engine/model/config.py", "def f():\n    '''Says cuda, does none.'''"),
    ("engine/kernels/cpu.py", "import triton, torch\ntorch.cuda.synchronize()"),
    ("engine/config.py", "DEVICES = ('cpu', 'cuda')\nHELP = 'cpu|cuda'"),
    ("engine/cli.py", "import typer, rich"),
    ("engine/server/app.py", "import starlette.routing, uvicorn, pydantic\nimport engine.engine"),
    ("engine/client.py", "def f():\n    import httpx"),
    ("lsp_server/server.py", "from engine.request import CompletionRequest"),
    ("lsp_server/server.py", "from engine.client import AsyncClient\nfrom engine import __version__"),
]


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house that keeps the rules."""
    files = {
        "engine/__init__.py": "",
        "engine/errors.py": "",
        "engine/request.py": "",
        "engine/cli.py": "",
        "engine/config.py": "",
        "engine/engine.py": "",
        "engine/client.py": "",
        "engine/server/__init__.py": "",
        "engine/server/app.py": "",
        "engine/helper.py": "from engine.model import config",
        "engine/kernels/__init__.py": "",
        "engine/kernels/cpu.py": "",
        "engine/model/__init__.py": "",
        "engine/model/config.py": "",
        "engine/speculation/__init__.py": "",
        "engine/speculation/tree.py": "",
        "lsp_server/__init__.py": "",
        "lsp_server/server.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_the_rules_hold() -> None:
    assert violations(ROOT) == []


def test_no_exception_outlives_its_reason() -> None:
    assert stale_exceptions(ROOT) == []


@pytest.mark.parametrize(("name", "code", "complaint"), PLANTED)
def test_a_planted_violation_is_found(house: Path, name: str, code: str, complaint: str) -> None:
    assert violations(house) == []
    (house / name).write_text(code)
    assert any(complaint in line for line in violations(house)), violations(house)


@pytest.mark.parametrize(("name", "code"), ALLOWED)
def test_what_is_allowed_passes(house: Path, name: str, code: str) -> None:
    (house / name).write_text(code)
    assert violations(house) == []


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after `statement`."""
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def import_all(package: str) -> str:
    """A statement that imports every module of a package."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / package).rglob("*.py")]
    names = sorted(".".join(path.parts).removesuffix(".__init__") for path in paths if path.name != "__main__")
    return "import " + ", ".join(names)


HEAVY = {"torch", "numpy", "transformers", "tokenizers", "safetensors"}


def test_the_language_server_loads_no_torch() -> None:
    loaded = loaded_by(import_all("lsp_server"))
    assert "lsp_server" in loaded
    assert not HEAVY & loaded


def test_requests_need_the_standard_library_only() -> None:
    loaded = loaded_by("import engine.request")
    packages = {name.split(".")[0] for name in loaded}
    assert "engine" in packages
    assert not HEAVY & packages


def test_the_command_line_starts_without_torch() -> None:
    loaded = loaded_by("import engine.cli")
    assert "engine.cli" in loaded
    assert not HEAVY & loaded


def test_completing_with_a_warm_daemon_starts_with_next_to_nothing() -> None:
    loaded = loaded_by("import engine.cli_complete, engine.client")
    assert "engine.client" in loaded
    assert not (HEAVY | {"typer", "rich", "pydantic", "starlette", "uvicorn", "httpx", "asyncio"}) & loaded


def test_importing_torch_would_be_noticed() -> None:
    assert HEAVY & loaded_by("import numpy")
