"""The plan for clusters, against numbers worked out by hand, and the tables in the document."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from benchmarks import communication, scale_model
from benchmarks.communication import Links, Work
from benchmarks.scale_model import Run

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "clusters.md"

# 100 GB/s inside a node and 80 Gbit/s = 10 GB/s between nodes.
LINKS = Links(8, nvlink_gb_s=100, network_gbps=80, nvlink_us=1, network_us=100)
WITHOUT_HOPS = Links(8, nvlink_gb_s=100, network_gbps=80, nvlink_us=0, network_us=0)
GIGABYTE = 1e9


def work(*, overlap: float = 0.0, num_params: int = 25 * 2**20) -> Work:
    """A step of 300 ms, 100 of them forward, of 100 MiB of parameters: 4 buckets of DDP."""
    return Work(0.3, 3, num_params, num_linear=num_params // 2, num_blocks=2, overlap=overlap)


def test_an_all_reduce_in_a_node_carries_everything_twice_but_for_its_own_eighth():
    # 2 x 7/8 x 1 GB at 100 GB/s, and 14 hops of 1 us in each of 10 pieces.
    assert LINKS.all_reduce_s(GIGABYTE, 8, pieces=10) == pytest.approx(0.0175 + 140e-6)


def test_an_all_reduce_of_two_nodes_adds_the_network_between_them():
    # 2 x 1/2 x 1 GB at 10 GB/s, and 2 hops of 100 us.
    assert LINKS.all_reduce_s(GIGABYTE, 16, pieces=1) == pytest.approx(0.0175 + 14e-6 + 0.1 + 2e-4)


def test_many_nodes_use_a_tree_whose_hops_grow_with_the_logarithm():
    # 128 nodes: 2 x 7 hops in a tree, 254 in a ring.
    with_hops, without = (links.all_reduce_s(GIGABYTE, 1024, 1) for links in (LINKS, WITHOUT_HOPS))

    assert with_hops - without == pytest.approx(14 * 100e-6 + 14 * 1e-6)


def test_an_all_reduce_approaches_its_limit_as_the_cluster_grows():
    limit = 2 * 7 / 8 * 0.01 + 2 * 0.1

    assert WITHOUT_HOPS.all_reduce_s(GIGABYTE, 8 * 10**6, 1) == pytest.approx(limit, rel=1e-5)


def test_a_gathering_is_as_slow_as_the_slowest_link_of_its_ring():
    # In a node 7 hops of 1 us; in two nodes 14 of them and one of 100 us.
    assert LINKS.gather_s(GIGABYTE, 8, pieces=2) == pytest.approx(7 / 8 * 0.01 + 2 * 7e-6)
    assert LINKS.gather_s(GIGABYTE, 16, pieces=2) == pytest.approx(15 / 16 * 0.1 + 2 * 114e-6)


@pytest.mark.parametrize("step_s_of", communication.STRATEGIES.values())
def test_one_gpu_is_fully_efficient(step_s_of):
    assert step_s_of(work(), LINKS, 1) == 0.3


def test_ddp_shows_what_the_backward_pass_does_not_hide():
    # 100 MiB: 104.8576 MB. 2 nodes: 2 x 7/8 / 100 GB/s + 1 / 10 GB/s = 12.3207680 ms.
    carried_s = 0.104857600 * (2 * 7 / 8 / 100 + 1 / 10)
    a_little = 0.002 / 0.2  # hides 2 of the 200 ms of the backward pass

    nothing_hidden = communication.ddp_step_s(work(), WITHOUT_HOPS, 16)
    some_hidden = communication.ddp_step_s(work(overlap=a_little), WITHOUT_HOPS, 16)
    all_hidden = communication.ddp_step_s(work(overlap=1.0), WITHOUT_HOPS, 16)

    assert nothing_hidden == pytest.approx(0.3 + carried_s)
    assert some_hidden == pytest.approx(0.3 + carried_s - 0.002)
    assert all_hidden == pytest.approx(0.3 + carried_s / 4)  # the last of 4 buckets is seen


def test_fsdp2_gathers_linear_layers_in_half_the_bytes_twice_and_scatters_gradients():
    # Of 104.8576 MB half are gathered in 2 of 4 bytes: 78.6432 MB, twice; 15/16 at 10 GB/s.
    carried_s = 15 / 16 * (2 * 0.0786432 + 0.1048576) / 10

    nothing_hidden = communication.fsdp2_step_s(work(), WITHOUT_HOPS, 16)
    all_hidden = communication.fsdp2_step_s(work(overlap=1.0), WITHOUT_HOPS, 16)

    assert nothing_hidden == pytest.approx(0.3 + carried_s)
    assert all_hidden == pytest.approx(0.3 + carried_s / 5)  # two for each block, and the rest


def test_a_training_step_is_three_forward_passes_of_two_operations_a_multiply_add():
    assert scale_model.step_flops(64.4569, 4, passes=3) == pytest.approx(1.5469656e12)


def test_a_row_counts_videos_cores_and_hours():
    run = Run(
        num_videos=240_000, epochs=200, views=2, clips_per_gpu=4, file_mb=0.5, core_ms={"a": 50.0}
    )

    row = scale_model.plan(work(num_params=1), run, WITHOUT_HOPS, 16)

    assert row["videos_per_step"] == 32
    assert row["ddp"]["efficiency"] == pytest.approx(1)
    assert row["fsdp2"]["efficiency"] == pytest.approx(1)
    assert row["ddp"]["hours"] == pytest.approx(200 * 7500 * 0.3 / 3600)
    assert row["videos_per_s_per_node"] == pytest.approx(16 / 0.3)
    assert row["mb_per_s_per_node"] == pytest.approx(8 / 0.3)
    assert row["cores_per_node"] == {"a": pytest.approx(16 / 0.3 * 0.05)}


def test_the_published_recipe_gives_each_gpu_four_clips_of_two_videos(tmp_path, capsys):
    assert scale_model.main(["--results", str(tmp_path)]) == 0

    told = capsys.readouterr().out
    record = json.loads(told.splitlines()[-1])
    assert record["run"]["clips_per_gpu"] == 4
    assert record["run"]["epochs"] == 200
    assert record["work"]["num_blocks"] == 16
    assert 0.9 < record["work"]["num_linear"] / record["work"]["num_params"] < 1
    assert record["rows"][4]["videos_per_step"] == 256  # 128 GPUs, as published
    assert record["step_is_assumed"]
    assert "assumed, not measured" in told


def test_a_measured_step_is_taken_as_it_is(tmp_path, capsys):
    words = ["--model", "L", "--step-ms", "900", "--epochs", "1", "--results", str(tmp_path)]

    assert scale_model.main(words) == 0

    told = capsys.readouterr().out
    record = json.loads(told.splitlines()[-1])
    assert not record["step_is_assumed"]
    assert record["work"]["step_s"] == 0.9
    assert record["work"]["passes"] == 4  # its recipe computes each block twice
    assert "assumed, not measured" not in told
    assert str(tmp_path) not in told


def documented_commands() -> list[str]:
    return re.findall(r"^python benchmarks/scale_model\.py.*$", DOCUMENT.read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", documented_commands())
def test_the_document_shows_what_its_command_prints(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command, comments=True)[2:]

    assert scale_model.main([*words, "--results", str(tmp_path)]) == 0

    table, *_ = capsys.readouterr().out.split("\nMeasured")
    assert table in DOCUMENT.read_text()


def test_the_document_has_such_commands():
    assert len(documented_commands()) >= 2
