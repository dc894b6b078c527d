"""What the comparison of offloading libraries stands on: the memory limit, and the weights in other forms."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.checkpoints.shapes import Shape
from benchmarks.make_checkpoint import make_checkpoint
from benchmarks.offload_peers.memory_group import ROOT, MemoryGroup, forget_files
from benchmarks.offload_peers.report import make_row
from benchmarks.offload_peers.sixteen_bit import write_sixteen_bit
from benchmarks.peers.protocol import Reply
from benchmarks.peers.weights import export
from engine.errors import TreelineError
from tests.engine.awq_checkpoints import write_packed
from tests.engine.checkpoints import LLAMA3_ROPE, llama

LIMIT = 96 << 20


@pytest.fixture
def group() -> MemoryGroup:
    try:
        return MemoryGroup("test", LIMIT)
    except TreelineError as error:
        pytest.skip(str(error))


def python(group: MemoryGroup, code: str) -> int:
    return subprocess.run(group.command([sys.executable, "-c", code]), check=False).returncode


class TestMemoryGroup:
    def test_counts_what_a_process_holds(self, group: MemoryGroup) -> None:
        with group:
            assert python(group, "import time; held = bytearray(40 << 20); time.sleep(0.5)") == 0
            assert 40 << 20 < group.peak_anonymous() <= group.peak() <= LIMIT

    def test_counts_the_page_cache_and_keeps_it_below_the_limit(self, group: MemoryGroup, tmp_path: Path) -> None:
        (tmp_path / "weights").write_bytes(bytes(2 * LIMIT))
        forget_files(tmp_path)
        with group:
            assert python(group, f"open({str(tmp_path / 'weights')!r}, 'rb').read(0)") == 0
            little = group.peak()
            code = f"file = open({str(tmp_path / 'weights')!r}, 'rb')\nwhile file.read(1 << 20): pass"
            assert python(group, code) == 0
            assert little + LIMIT // 2 < group.peak() <= LIMIT
            assert group.peak_anonymous() < LIMIT // 2

    def test_ends_who_takes_more(self, group: MemoryGroup) -> None:
        with group:
            assert python(group, f"held = bytearray({2 * LIMIT})") == -9

    def test_kill_ends_all_its_processes(self, group: MemoryGroup) -> None:
        with group:
            code = "print(flush=True); import time; time.sleep(600)"
            process = subprocess.Popen(group.command([sys.executable, "-c", code]), stdout=subprocess.PIPE)
            assert process.stdout
            process.stdout.readline()
            group.kill()
            assert process.wait(60) == -9
            process.stdout.close()

    def test_is_gone_afterwards(self, group: MemoryGroup) -> None:
        with group:
            python(group, "pass")
        assert not list(ROOT.rglob("treeline-test-*"))

    def test_one_line_where_it_is_not_permitted(self, tmp_path: Path) -> None:
        with pytest.raises(TreelineError, match="cannot make a memory control group at .*run as root"):
            MemoryGroup("test", LIMIT, root=tmp_path / "absent")


def test_sixteen_bits_say_the_same_with_fewer_layers(tmp_path: Path) -> None:
    rope = {"head_dim": 32, "rope_parameters": LLAMA3_ROPE}
    (tmp_path / "source").mkdir()
    write_packed(tmp_path / "source", llama(**rope, tie_word_embeddings=True), 32, {}, lambda _: True)
    make_checkpoint(tmp_path / "source", Shape(1024, 384, 9, 8, 2, 64, 192), tmp_path / "large")
    write_sixteen_bit(tmp_path / "large", tmp_path / "sixteen")
    export(tmp_path / "large", tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    sixteen = AutoModelForCausalLM.from_pretrained(tmp_path / "sixteen", dtype=torch.float32)
    assert plain.config.num_hidden_layers == 9
    assert sixteen.config.num_hidden_layers == 3
    for number, index in enumerate((0, 3, 6)):
        pairs = zip(sixteen.model.layers[number].parameters(), plain.model.layers[index].parameters(), strict=True)
        assert all(torch.equal(ours, theirs.bfloat16().float()) for ours, theirs in pairs)
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(sixteen.state_dict()[name], plain.state_dict()[name].bfloat16().float())


def test_rates_leave_out_the_first_pass_and_agreement_what_was_not_reached() -> None:
    replies = [Reply((1, 2, 3, 4, 5, 6), 2, 10.0, 14.0, 3), Reply((7, 8, 9), 1, 12.0, 16.0, 3)]
    row = make_row("peer", replies, [(1, 2, 3, 4, 0, 0, 0, 0), (7, 8, 9, 9)], (100, 50), {}, None)
    assert (row.seconds_per_pass, row.tokens_per_pass, row.tokens_per_second) == (2.0, 1.5, 0.75)
    assert (row.first_s, row.tokens, row.passes) == (11.0, 9, 6)
    assert row.agreeing == 7 / 9


def test_a_peer_that_never_answered_has_a_row() -> None:
    row = make_row("peer", [], [(1, 2)], (100, 50), {}, "it ended")
    assert (row.seconds_per_pass, row.agreeing, row.error) == (None, None, "it ended")
