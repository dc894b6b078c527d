"""`treeline doctor`: whether all that Treeline needs is here, and which model would suit this machine."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from engine import cli_options as options
from engine import doctor as look
from engine.terminal import write_json

_MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    config: options.ConfigFile = None,
) -> int:
    """Say what this machine has, what is missing and how to get it, and which model would suit. Loads no model.

    Exit status 1 if something is in the way of a completion.
    """
    findings = list(look.examine(config, os.environ))
    machine = look.this_machine()
    preset = look.suggested(machine)
    if as_json:
        write_json({"findings": [asdict(each) for each in findings], "machine": asdict(machine), "suggested": preset})
    else:
        width = max(len(each.what) for each in findings)
        for each in findings:
            print(f"{_MARKS[each.verdict]:7}  {each.what:{width}}  {each.found}")
            if each.advice:
                print(f"{'':7}  {'':{width}}  -> {each.advice}")
        print(f"\nA model for this machine: {preset}" + _how(preset))
    return int(any(each.verdict == "problem" for each in findings))


def _how(preset: str) -> str:
    if preset == "bundled":
        return ", which is part of Treeline"
    return f"  (treeline models pull {preset} && treeline models use {preset})"
