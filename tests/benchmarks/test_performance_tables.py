"""The tables and the figure in the documents are those of the newest results."""

from __future__ import annotations

import re

import pytest

from benchmarks import growth, performance_tables, profile_model
from benchmarks.performance_tables import DOCUMENTS, TABLES, filled
from benchmarks.record import RESULTS, newest_result


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_shows_the_newest_results(path):
    text = path.read_text()

    assert filled(text) == text


def test_every_table_is_in_a_document():
    marked = {
        name
        for path in DOCUMENTS
        for name in re.findall(r"<!-- table: (.+?) -->", path.read_text())
    }

    assert marked == set(TABLES)


def test_the_figure_is_drawn_from_the_newest_result():
    rows = newest_result(RESULTS, growth.RESULT)["rows"]

    assert growth.digest(rows) in growth.FIGURE.read_text()


def test_a_table_without_a_result_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no growth_2"):
        filled("<!-- table: growth -->\n<!-- end -->", tmp_path)


def test_a_clip_of_several_is_told_by_itself():
    row = {"batch": 4, "clock_s": 0.2, "fraction_of_floor": 0.5}
    record = {
        "speed": {"train_bf16": {"ours": row}},
        "train_bf16_vs_torchvision": 3.0,
        "input_size": [16, 224, 224],
        "bf16_input_size": [16, 224, 224],
        "command": "python benchmarks/model.py",
        "date": "2026-11-23",
        "machine": {"cpu": "x", "num_threads": 2, "num_cores": 2, "torch": "2", "torchvision": "0"},
    }

    table = performance_tables.speed(record)

    assert "| ours | 50 ms (0.50 of the floor) |" in table
    assert "| a clip | training step, bf16 |" in table


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::convolution_backward", "convolutions"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention kernels"),
        ("slowfast_mvit::pool_qkv", "our kernels"),
        ("aten::add_", "sums and products of elements"),
        ("aten::native_layer_norm", "norms"),
        ("aten::_softmax_backward_data", "softmax"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::empty", "everything else"),
    ],
)
def test_operations_have_classes(operation, name):
    assert profile_model.class_of(operation) == name
