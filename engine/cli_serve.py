"""`treeline serve`: the engine for editors and other programs; what of it runs in the background, and its end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from engine import cli_options as options
from engine import launch
from engine.errors import TreelineError
from engine.extras import installing
from engine.terminal import write_json

app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")

_EXAMPLES = """
[bold]Examples[/bold]

  treeline serve                                  for the clients of this user, on a Unix socket

  treeline serve --port 8012 --token-file token   for programs too, at http://127.0.0.1:8012/v1

  treeline serve status                           what runs in the background

  treeline serve stop                             end it
"""


@app.callback(epilog=_EXAMPLES)
def serve(
    context: typer.Context,
    host: Annotated[
        str | None, typer.Option(metavar="H", help="Listen at this address too. Default with --port: 127.0.0.1.")
    ] = None,
    port: Annotated[int | None, typer.Option(metavar="P", min=0, max=65535, help="Listen on this port too.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The token that clients must send, if not in the variable TREELINE_TOKEN."),
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let --host be an address that other machines can reach.")
    ] = False,
    model: options.Model = None,
    drafter: options.Drafter = None,
    memory: options.Memory = None,
    device: options.DeviceOption = None,
    dtype: options.DTypeOption = None,
    budget: options.Budget = None,
    verification: options.VerificationOption = None,
    layout: options.Layout = None,
    threads: options.Threads = None,
    config: options.ConfigFile = None,
) -> None:
    """Serve completions until Ctrl-C: OpenAI's API, llama.cpp's /infill, Treeline's own.

    Without --port only programs of this user can connect. Commands and editors start such a process by themselves.
    """
    if context.invoked_subcommand is not None:
        return
    if host is not None and port is None:
        raise typer.BadParameter("it needs --port", param_hint="--host")
    names = {"model": model, "drafter": drafter, "memory": memory, "device": device, "dtype": dtype, "budget": budget}
    names |= {"verification": verification, "layout": layout, "threads": threads}
    settings = options.make_config(names, config)
    if not launch.can_serve():
        raise TreelineError(f"serving needs the extra `server`: {installing('server')}")
    from engine.server.daemon import AlreadyRunning, ServeOptions
    from engine.server.daemon import serve as run

    token = None
    if port is not None:
        host = host or "127.0.0.1"
        _check_host(host, allow_remote)
        token = _token(token_file)
    try:
        run(ServeOptions(settings, None, host, port, token), _say_where)
    except AlreadyRunning:
        raise TreelineError("an engine of this configuration runs already: end it with `treeline serve stop`") from None


def _check_host(host: str, allow_remote: bool) -> None:
    from engine.server.daemon import is_loopback

    if is_loopback(host):
        return
    if not allow_remote:
        raise TreelineError(f"--host {host} can be reached from other machines: add --allow-remote if that is meant")
    _warn(f"other machines can reach {host}; tokens and code travel unencrypted: put a TLS proxy in front")


def _token(file: Path | None) -> str:
    """Return the token that clients must send. Raises TreelineError if there is none."""
    token = os.environ.get("TREELINE_TOKEN", "")
    if file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise TreelineError(f"cannot read the token from {file}: {error}") from None
    if not token or not token.isascii() or any(char.isspace() for char in token):
        raise TreelineError(
            "a port needs a token, without spaces: set TREELINE_TOKEN or give --token-file; one can be made with"
            " `openssl rand -hex 32`"
        )
    return token


def _say_where(where: str) -> None:
    print(f"Serving at {where}. Ctrl-C ends it.", file=sys.stderr, flush=True)


def _warn(message: str) -> None:
    print(f"treeline: warning: {message}", file=sys.stderr, flush=True)


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def status(as_json: AsJson = False) -> int:
    """List the engines that run in the background. Exit status 1 if there are none."""
    found = list(launch.running(os.environ))
    if as_json:
        write_json(
            {"engines": [{"pid": each.pid, "log": str(each.files.log), **(each.health or {})} for each in found]}
        )
    for each in found if not as_json else ():
        health = each.health or {"status": "does not answer", "model": "?", "version": "?"}
        doing = "busy" if health.get("busy") else health["status"]
        print(f"{health['model']}: {doing}, process {each.pid}, Treeline {health['version']}, log {each.files.log}")
    if not found and not as_json:
        print("no engine runs", file=sys.stderr)
    return 0 if found else 1


@app.command()
def stop() -> int:
    """End the engines that run in the background; what they are answering ends with what there is."""
    found = list(launch.running(os.environ))
    for each in found:
        launch.stop(each.pid, each.files)
        print(f"ended process {each.pid}", file=sys.stderr)
    if not found:
        print("no engine runs: there is nothing to end", file=sys.stderr)
    return 0
