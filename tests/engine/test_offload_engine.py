"""Completions of a streamed target are those of the same target in memory, and `--memory` decides which it is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from pairs import PairPaths

from engine import loading as loading_module
from engine.cli import main
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import TreelineError
from engine.hub import ASSETS
from engine.kernels import cpu
from engine.offload import load as load_module
from engine.offload import report as report_module
from engine.offload.demand import MIB, Demand, cpu_demand
from engine.offload.direct import DirectFile
from engine.offload.planner import MARGIN
from engine.offload.stream import StreamedLayers
from engine.request import CompletionRequest, SamplingParams, StopRules

pytestmark = [
    pytest.mark.skipif(not cpu.available(), reason="streaming needs the native kernels"),
    pytest.mark.usefixtures("one_thread"),
]
PROCESS = 300 * 2**20
PREFIX = "def area(width, height):\n    return width * height\n\n\ndef perimeter(width, height):\n    return "


@pytest.fixture(autouse=True)
def small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and a process of known size: what the tests hold besides must not matter."""
    monkeypatch.setenv("TREELINE_CACHE", str(tmp_path / "cache"))
    for module in (loading_module, load_module):
        monkeypatch.setattr(module, "resident_bytes", lambda: PROCESS)


def least_memory(target: str, drafter: str) -> int:
    """What the refusal of too little memory says is enough, in bytes."""
    with pytest.raises(TreelineError) as caught:
        Engine.load(EngineConfig(model=target, drafter=drafter, memory=1))
    found = re.search(r"it needs at least (\d+) MiB", str(caught.value))
    assert found, caught.value
    return int(found[1]) * 2**20


def texts(engine: Engine) -> list[tuple[tuple[int, ...], ...]]:
    """Tokens of completions, greedy and sampled, with speculation and without."""
    requests = [
        CompletionRequest(prefix=PREFIX, max_tokens=24, stop=StopRules(ignore_end_tokens=True), speculation=speculation,
                          sampling=SamplingParams(temperature=temperature, seed=3))
        for speculation in (True, False)
        for temperature in (0.0, 0.8)
    ]  # fmt: skip
    return [tuple(chunk.tokens for chunk in engine.complete(request)) for request in requests]


def joined(chunks: tuple[tuple[int, ...], ...]) -> list[int]:
    return [token for chunk in chunks for token in chunk]


def streamed(engine: Engine) -> StreamedLayers:
    layers = engine._models[0].layers  # pyright: ignore[reportPrivateUsage]
    assert isinstance(layers, StreamedLayers)
    return layers


@pytest.fixture
def offloaded(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The bundled pair in the least memory that works, where its text cannot be told from that of the pair whole."""
    # the pair always fits, but streaming is what is tested; the drafter is taken for a part of the process
    monkeypatch.setattr(loading_module, "_fits", lambda config, *_: config.memory is None)
    monkeypatch.setattr(load_module, "cpu_demand", lambda shape, _, process, **more: cpu_demand(shape, None, process))
    return Engine.load(EngineConfig(memory=least_memory("bundled", "auto")))


def test_the_bundled_pair_says_the_same_when_it_is_streamed(offloaded: Engine) -> None:
    whole = Engine.load(EngineConfig(context_length=1024))
    layers = streamed(offloaded)
    assert all(layers.is_streamed(number) for number in range(len(layers.store.pass_pieces)))
    assert [joined(each) for each in texts(offloaded)] == [joined(each) for each in texts(whole)]
    offloaded.close()


def test_a_cancelled_completion_leaves_a_right_next_one(offloaded: Engine) -> None:
    request = CompletionRequest(prefix=PREFIX, max_tokens=16, stop=StopRules(ignore_end_tokens=True))
    expected = [token for chunk in offloaded.complete(request) for token in chunk.tokens]
    for layers in (1, 5, 17, 30):
        offloaded.forget()
        asked = iter(range(1000))
        last = list(offloaded.complete(request, lambda asked=asked, layers=layers: next(asked) >= layers))[-1]
        assert last.finish_reason == "cancelled"
        assert [token for chunk in offloaded.complete(request) for token in chunk.tokens] == expected
    offloaded.close()


def test_no_request_has_larger_trees_than_memory_was_planned_for(offloaded: Engine) -> None:
    rows: list[int] = []
    target = offloaded._lane.target  # pyright: ignore[reportPrivateUsage]
    run = target.run
    target.run = lambda tokens, *rest: rows.append(len(tokens)) or run(tokens, *rest)  # type: ignore[method-assign]
    list(offloaded.complete(CompletionRequest(prefix=PREFIX, max_tokens=16, budget=512)))
    assert 32 < max(rows[1:]) <= 72
    offloaded.close()


def test_a_read_error_ends_one_completion(offloaded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    request = CompletionRequest(prefix=PREFIX, max_tokens=16, stop=StopRules(ignore_end_tokens=True))
    expected = [token for chunk in offloaded.complete(request) for token in chunk.tokens]

    def broken(file: DirectFile, view: memoryview, offset: int) -> None:
        raise TreelineError(f"cannot read {file.path} at offset {offset}: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(DirectFile, "read", broken)
        with pytest.raises(TreelineError, match=r"cannot read .*\.store at offset \d+"):
            list(offloaded.complete(request))
    assert [token for chunk in offloaded.complete(request) for token in chunk.tokens] == expected
    offloaded.close()


def test_a_pair_that_fits_is_not_streamed() -> None:
    whole = Engine.load(EngineConfig(memory=2 * 2**30))
    assert not isinstance(whole._models[0].layers, StreamedLayers)  # pyright: ignore[reportPrivateUsage]


def test_a_target_whose_files_were_consumed_is_loaded_from_its_store(pair_paths: PairPaths, tmp_path: Path) -> None:
    target = tmp_path / "target"
    shutil.copytree(pair_paths.awq, target)
    whole = Engine.load(EngineConfig(model=str(target), drafter="none"))
    assert main(["repack", str(target), "--consume-source"]) == 0
    assert list(target.glob("*.safetensors")) == []
    stored = Engine.load(EngineConfig(model=str(target), drafter="none", memory=2 * 2**30))
    assert texts(stored) == texts(whole)
    stored.close()
    with pytest.raises(TreelineError, match="have gone into its store.* set one, such as --memory 8GiB"):
        Engine.load(EngineConfig(model=str(target), drafter="none"))


def test_a_model_that_is_not_quantised_is_refused(pair_paths: PairPaths) -> None:
    with pytest.raises(TreelineError, match="cannot be streamed: it is not quantised.*allow more"):
        Engine.load(EngineConfig(model=str(pair_paths.target), drafter="none", memory=1))


def test_another_type_of_computing_is_refused(pair_paths: PairPaths) -> None:
    with pytest.raises(TreelineError, match="streamed with dtype auto only"):
        Engine.load(EngineConfig(model=str(pair_paths.awq), drafter="none", memory=1, dtype="float32"))


# --- the command line ------------------------------------------------------------------------------------------------


def test_repack_prints_where_the_store_is(pair_paths: PairPaths, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["repack", str(pair_paths.awq)]) == 0
    path = Path(capfd.readouterr().out.strip())
    assert path.is_file()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["repack", str(pair_paths.awq)]) == 1
    assert "is damaged at offset" in capfd.readouterr().err


def test_plan_predicts_for_a_card(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model-shape", "llama-3.1-70b", "--gpu", "rtx4090", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["measured"] is False
    assert answer["plan"]["streamed"] + len(answer["plan"]["resident"]) == 80
    assert answer["passes"][0]["seconds"] == pytest.approx(0.68, rel=0.05)
    assert main(["plan", "--model-shape", "llama-3.1-70b", "--gpu", "rtx4090"]) == 0
    assert "predicted from data sheets, not measured" in " ".join(capfd.readouterr().out.split())


def test_plan_measures_this_machine(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(ASSETS / "target"), "--memory", "2GiB", "--disk", "1GB", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["measured"] is True
    assert answer["plan"]["streamed"] == 0
    assert answer["best"]["tokens_per_second"] > 0


def test_plan_of_the_bundled_pair_needs_no_disk(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report_module, "compute_seconds", lambda *_, **__: {1: 0.01, 4: 0.01})
    assert main(["plan", "--memory", "2GiB", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert (answer["model"], answer["drafter"]) == ("bundled", "bundled-drafter")
    assert (answer["disk"], answer["plan"]["streamed"]) == (None, 0)
    assert main(["plan", "--memory", "2GiB"]) == 0
    assert "disk not measured" in capfd.readouterr().out


def test_plan_asks_for_the_disk_where_the_files_are_too_small(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report_module, "compute_seconds", lambda *_, **__: {1: 0.01, 4: 0.01})
    monkeypatch.setattr(report_module, "cpu_demand", lambda *_, **__: Demand((MIB,) * 12, (), 0))
    room = str(MARGIN + 13 * MIB)  # for half of the pieces, each of which takes a huge page
    assert main(["plan", "--memory", room]) == 1
    assert "bundled does not fit into 77 MiB" in (complaint := capfd.readouterr().err)
    assert complaint.endswith("give --disk, as in --disk 2GB\n")
    assert main(["plan", "--memory", room, "--disk", "1GB"]) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--gpu", "rtx1"], 'no GPU called "rtx1"'),
        (["--model-shape", "x", "--gpu", "l40"], 'no shape called "x"'),
        (["--model-shape", "llama-3.1-8b"], "give --disk"),
        (["--acceptance", "0.9,0.9"], "--acceptance: '0.9,0.9': expected chances"),
        (["--disk", "fast"], "--disk: 'fast': expected a size"),
        (["--model-shape", "llama-3.1-70b", "--gpu", "l40", "--memory", "1GiB"], "it needs at least"),
    ],
)
def test_plan_says_what_is_wrong(arguments: list[str], complaint: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *arguments]) in (1, 2)
    assert complaint in capfd.readouterr().err


def test_bench_offload_needs_a_size(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "offload"]) == 2
    assert "--memory: a size is needed" in capfd.readouterr().err
