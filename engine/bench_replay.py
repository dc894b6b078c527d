"""`treeline bench replay`: somebody types real files, in real time, through the language server and its engine."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.bench import Case
from engine.bench_replay_client import LanguageClient
from engine.bench_replay_editor import ENCODINGS, Asked, Editor, Style
from engine.bench_replay_typist import Habits, Typist, make_typist
from engine.config import REACHING, EngineConfig
from engine.errors import TreelineError
from engine.launch import Connection, Status, address_of, running, stop

SERVER = (sys.executable, "-I", "-m", "lsp_server", "--log-level", "warning")
LOAD_SECONDS = 600.0
_REMEMBERED = 50  # requests, after which the server's reasons are fetched: it keeps the latest 100
_VERSIONS = 100_000  # between a document's first version and the next one's, so that each names one text
_WARM_UP = "def area(width, height):\n    "


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """How it is typed. `least`: characters per case, from the lines that follow if need be. `gap_scale`: of pauses."""

    client: Style = "vscode"
    least: int = 80
    gap_scale: float = 1.0
    seed: int = 0
    habits: Habits = field(default_factory=Habits)
    starts: int = 5


@dataclass(slots=True)
class Typed:
    """One case: its keys, what of it was accepted, its requests, and whether the server has the typist's text."""

    case: Case
    keys: int = 0
    accepted: int = 0
    characters: int = 0
    saved: int = 0
    same_text: bool = True
    asked: list[Asked] = field(default_factory=list[Asked])


@dataclass(frozen=True, slots=True)
class Load:
    """Of server and daemon at one moment: resident bytes, None where the system does not say, and the counters."""

    server_bytes: int | None
    daemon_bytes: int | None
    counters: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Replay:
    """All that was seen."""

    typed: Sequence[Typed]
    start_ms: Sequence[float]
    before: Load
    after: Load
    statistics: Mapping[str, Any]
    strays: int
    stderr: Sequence[str]


def replay(
    config: EngineConfig, cases: Sequence[Case], settings: ReplaySettings, progress: Callable[[str], None]
) -> Replay:
    """Type every case. The engine is a daemon that nobody else uses, ended afterwards. Raises TreelineError."""
    with private_runtime(config) as (variables, folder):
        return asyncio.run(_replay(cases, settings, progress, variables, folder))


@contextlib.contextmanager
def private_runtime(config: EngineConfig) -> Generator[tuple[dict[str, str], Path]]:
    """Variables under which a server finds `config` and a daemon of its own, and an empty folder to work in."""
    with tempfile.TemporaryDirectory(prefix="treeline-replay-") as name:
        variables = {key: value for key, value in os.environ.items() if not key.startswith("TREELINE_")}
        given = {key: value for key, value in asdict(config).items() if key not in REACHING and value is not None}
        variables |= {f"TREELINE_{key.upper()}": str(value) for key, value in given.items()}
        runtime, work = Path(name, "run"), Path(name, "work")
        runtime.mkdir(mode=0o700)
        work.mkdir()
        variables |= {"TREELINE_RUNTIME_DIR": str(runtime), "XDG_CONFIG_HOME": name}
        try:
            yield variables, work
        finally:
            for daemon in list(running(variables)):
                stop(daemon.pid, daemon.files)


async def _replay(
    cases: Sequence[Case],
    settings: ReplaySettings,
    progress: Callable[[str], None],
    variables: Mapping[str, str],
    folder: Path,
) -> Replay:
    start_ms: list[float] = []
    for _ in range(settings.starts):
        async with session(variables, folder, settings.client, start_ms):
            pass
    async with session(variables, folder, settings.client, []) as client:
        await ready(client)
        await _warm_up(client, folder)
        before = load_of(client, variables)
        typed: list[Typed] = []
        for number, case in enumerate(cases):
            typed.append(await _type(case, number, client, settings, folder))
            progress(case.id)
        statistics = await client.ask("workspace/executeCommand", {"command": "treeline.server.statistics"})
        after = load_of(client, variables)
    return Replay(typed, start_ms, before, after, statistics, client.strays, list(client.stderr))


@contextlib.asynccontextmanager
async def session(
    variables: Mapping[str, str], folder: Path, style: Style, start_ms: list[float]
) -> AsyncGenerator[LanguageClient]:
    """A server that has answered `initialize`; how long that took goes into `start_ms`."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    client = await LanguageClient.start(SERVER, variables)
    try:
        capabilities = {"general": {"positionEncodings": [ENCODINGS[style], "utf-16"]}}
        folders = [{"uri": folder.as_uri(), "name": folder.name}]
        params = {"processId": os.getpid(), "rootUri": folder.as_uri(), "capabilities": capabilities}
        answer = await client.ask("initialize", params | {"workspaceFolders": folders})
        start_ms.append(1000 * (loop.time() - began))
        encoding = answer["capabilities"].get("positionEncoding", "utf-16")
        if encoding != ENCODINGS[style]:
            raise TreelineError(f"the language server counts in {encoding}: this needs {ENCODINGS[style]}")
        yield client
    finally:
        await client.stop()


async def ready(client: LanguageClient) -> None:
    """Begin the session and wait until the model is loaded. Raises TreelineError if it cannot be."""
    states = client.watch("treeline/status")
    client.notify("initialized", {})
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            while (status := await states.get()) is not None:
                if status["state"] == "ready":
                    return
                if status["state"] == "failed":
                    raise TreelineError(status["message"])
    except TimeoutError:
        raise TreelineError(f"the model was not loaded within {LOAD_SECONDS:.0f} s") from None
    raise TreelineError(f"the language server has ended: {client.stderr[-1] if client.stderr else 'without a word'}")


async def _warm_up(client: LanguageClient, folder: Path) -> None:
    """Ask once for what only the first request pays."""
    uri = (folder / "warm_up.py").as_uri()
    document = {"uri": uri, "languageId": "python", "version": 1, "text": _WARM_UP}
    client.notify("textDocument/didOpen", {"textDocument": document})
    place = {"textDocument": {"uri": uri}, "position": {"line": 1, "character": 4}}
    await client.ask("textDocument/inlineCompletion", place | {"context": {"triggerKind": 1}})
    client.notify("textDocument/didClose", {"textDocument": {"uri": uri}})


# --- one case --------------------------------------------------------------------------------------------------------


async def _type(case: Case, number: int, client: LanguageClient, settings: ReplaySettings, folder: Path) -> Typed:
    chance = random.Random(f"{settings.seed} {case.id}")
    text, typist = make_typist(case.prefix, case.suffix, case.expected, settings.least, chance, settings.habits)
    path = _path(folder, case.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    editor = Editor(client, settings.client, path.as_uri(), 1 + number * _VERSIONS)
    editor.open(typist.page, case.language)
    typed = Typed(case)
    explained = 0
    while await _press(typist, editor, typed, settings.gap_scale):
        if len(editor.asked) - explained >= _REMEMBERED:
            await _explain(client, editor)
            explained = len(editor.asked)
    await editor.settle()
    await _explain(client, editor)
    typed.asked = editor.asked
    typed.same_text = await same_text(client, editor.uri, typist.page.text)
    path.write_text(typist.page.text, encoding="utf-8", newline="")
    editor.close()
    return typed


async def _press(typist: Typist, editor: Editor, typed: Typed, gap_scale: float) -> bool:
    """One key after its pause; say whether there was one to press."""
    await asyncio.sleep(typist.gap() * gap_scale)
    stroke = typist.accept(editor.screen.rest, editor.covers) if editor.screen.rest else None
    if stroke is not None:
        typed.accepted += 1
        typed.saved += len(stroke.text)
    else:
        stroke = typist.next()
    if stroke is None:
        return False
    editor.press(stroke)
    typed.keys += 1
    typed.characters += len(stroke.text)
    return True


async def _explain(client: LanguageClient, editor: Editor) -> None:
    """Fetch the server's own reasons for how it answered."""
    answer = await client.ask("workspace/executeCommand", {"command": "treeline.server.explain"})
    reasons = {each["version"]: each for each in answer["recent"] if each["uri"] == editor.uri}
    for asked in editor.asked:
        if not asked.reason and asked.version in reasons:
            asked.reason = reasons[asked.version]["reason"]


async def same_text(client: LanguageClient, uri: str, text: str) -> bool:
    """Whether the server's document holds `text`."""
    digest = await client.ask("workspace/executeCommand", {"command": "treeline.server.digest", "arguments": [uri]})
    return digest is not None and digest["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def _path(folder: Path, name: str) -> Path:
    """Where the case's file lies in the workspace, whatever its name is."""
    parts = [part for part in Path(name).parts if part not in ("..", "/", ".")]
    return folder.joinpath(*parts) if parts else folder / "untitled"


# --- server and daemon -----------------------------------------------------------------------------------------------


def load_of(client: LanguageClient, variables: Mapping[str, str]) -> Load:
    """Look at the server, and at the daemon that it uses."""
    daemons: list[Status] = list(running(variables))
    if not daemons:
        return Load(resident(client.process.pid), None, {})
    return Load(resident(client.process.pid), resident(daemons[0].pid), counters(daemons[0]))


def resident(pid: int) -> int | None:
    """Return the memory that a process holds, in bytes; None where the system does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def counters(daemon: Status) -> dict[str, float]:
    """Return the daemon's counters, without the prefix of their names; requests by their end."""
    address = address_of(daemon.files)
    if address is None:
        return {}
    connection = Connection(address)
    try:
        connection.request("GET", "/metrics", headers=address.headers())
        return parse_counters(connection.getresponse().read().decode())
    except OSError:
        return {}
    finally:
        connection.close()


def parse_counters(text: str) -> dict[str, float]:
    """Read Prometheus' text format: counters by name; `requests` by their end and all together."""
    found: dict[str, float] = {"requests": 0.0}
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        plain, _, labels = name.partition("{")
        if plain == "treeline_requests_total":
            end = labels.partition('end="')[2].partition('"')[0]
            found[end] = found.get(end, 0.0) + float(value)
            found["requests"] += float(value)
        elif plain.startswith("treeline_") and plain.endswith("_total"):
            found[plain.removeprefix("treeline_").removesuffix("_total")] = float(value)
    return found
