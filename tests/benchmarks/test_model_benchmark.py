"""The benchmark of the model: what it counts, against published numbers, and what it prints."""

from __future__ import annotations

import json

import pytest
import torch
from torchvision.models.video import mvit_v2_s

from benchmarks import contenders, lower_bounds, model
from benchmarks.lower_bounds import Case, Need, Step
from benchmarks.timing import Rounds

TINY_CLIP = (2, 32, 32)
TINY = Case("S", TINY_CLIP, "train", "fp32")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quickly_drawn(monkeypatch):
    """First weights without cut tails, which take a third of the time to draw."""
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", torch.nn.init.normal_)


@pytest.mark.parametrize(("size", "gmac"), [("S", 64.4569), ("B", 225.1700), ("L", 2828.1012)])
def test_a_forward_pass_has_twice_the_published_multiply_adds(size, gmac):
    operations_counted = lower_bounds.count_operations(
        size, lower_bounds.published_input(size), mode="infer"
    )

    assert operations_counted / 2e9 == pytest.approx(gmac, abs=1e-4)


def test_a_training_step_has_three_times_as_many_but_no_gradients_of_pixels():
    forward, both = (
        lower_bounds.count_operations("S", (16, 224, 224), mode) for mode in ("infer", "train")
    )

    # 96 filters of 3 x 3 x 7 x 7, at 8 x 56 x 56 places
    assert 3 * forward - both == 2 * 96 * 3 * 3 * 7 * 7 * 8 * 56 * 56


def test_a_step_reads_again_and_moves_gradients_in_training():
    step = Step(reads=30, writes=20, kept=4)

    assert step.moved("infer") == 50
    # forward 50, 4 kept and read, 30 read again, gradients of 20 read, of 30 written
    assert step.moved("train") == 50 + 8 + 30 + 20 + 30
    assert step._replace(has_gradient=False).moved("train") == 50 + 8 + 30 + 20


def test_the_first_block_moves_what_the_rule_says():
    patches, *block = lower_bounds.steps_of("S", (16, 224, 224))[:6]
    num, num_k = 1 + 8 * 56 * 56, 1 + 8 * 7 * 7
    tokens, pooled_qkv = 96 * num, 96 * (num + 2 * num_k)

    assert patches == Step(0, tokens, has_gradient=False)
    assert block == [
        Step(tokens, 3 * tokens),
        Step(3 * tokens, pooled_qkv),
        Step(pooled_qkv, tokens),
        Step(2 * tokens, tokens),
        Step(tokens, tokens, kept=4 * tokens),
    ]


def test_a_batch_needs_more_but_reads_weights_once():
    one, two = (
        lower_bounds.need(Case("S", TINY_CLIP, "infer", "bf16", batch=batch)) for batch in (1, 2)
    )

    assert two.operations == 2 * one.operations
    weight_bytes = 4 * 34_537_744  # less positions that only larger clips need
    assert 2 * one.bytes - two.bytes == pytest.approx(weight_bytes, rel=0.01)


def test_the_floor_is_the_slower_of_computing_and_moving():
    assert Need(operations=100.0, bytes=10.0).floor_s(rate=50.0, bandwidth=10.0) == 2.0
    assert Need(operations=100.0, bytes=10.0).floor_s(rate=50.0, bandwidth=1.0) == 10.0


def test_linear_layers_are_named_by_rows_and_columns():
    shapes = lower_bounds.linear_shapes("S", (16, 224, 224))

    assert (25089, 96, 288) in shapes  # qkv of the first block
    assert (393, 768, 3072) in shapes  # fc1 of the last
    assert len(shapes) == len(set(shapes))


def test_torchvisions_contender_is_its_mvit_v2_s():
    theirs = mvit_v2_s()

    built = contenders.build_torchvision(Case("S", (16, 224, 224), "train", "fp32"))

    assert str(built) == str(theirs)
    shapes = {name: value.shape for name, value in built.state_dict().items()}
    assert shapes == {name: value.shape for name, value in theirs.state_dict().items()}


def first_weights(built):
    return next(iter(built.parameters())).detach()


@pytest.mark.parametrize(
    ("names", "checkpointing"),
    [
        (contenders.EAGER, "none"),
        pytest.param(("ours", "torchvision"), "selective", marks=pytest.mark.nightly),
    ],
    ids=["as they are", "with checkpointing"],
)
def test_contenders_agree_and_train(names, checkpointing):
    case = TINY._replace(checkpointing=checkpointing)
    cases = dict.fromkeys(names, case)
    models = contenders.build_all(cases)

    apart = contenders.differences({name: built.eval() for name, built in models.items()}, cases)
    before = {name: first_weights(built).clone() for name, built in models.items()}
    for built in models.values():
        contenders.work_of(built.train(), case)()

    assert apart["torchvision"] == 0
    assert max(apart.values()) < 1e-4
    for name, built in models.items():
        assert not torch.equal(first_weights(built), before[name])


def test_models_that_differ_are_not_timed():
    cases = dict.fromkeys(("ours", "torchvision"), TINY._replace(mode="infer"))
    models = contenders.build_all(cases)
    with torch.no_grad():
        models["ours"].head.projection.weight.add_(torch.randn(400, 768))

    with pytest.raises(RuntimeError, match=r"ours by .* Nothing was timed"):
        contenders.differences(models, cases)


def test_the_first_clip_is_the_same_in_any_batch():
    (one, one_label), (two, two_labels) = (
        contenders.random_clips(TINY._replace(batch=batch)) for batch in (1, 2)
    )

    assert torch.equal(one[0], two[0])
    assert one_label[0] == two_labels[0]


def test_a_batch_is_doubled_while_that_pays(monkeypatch):
    rates = {1: 10.0, 2: 19.0, 4: 30.0, 8: 30.1, 16: 99.0}
    monkeypatch.setattr(model, "_rate_with", lambda name, case: rates[case.batch])

    assert model.tuned_batch("ours", TINY) == 4


def test_a_batch_too_large_for_the_memory_is_not_chosen(monkeypatch):
    rates = {1: 10.0, 2: 19.0, 4: 0.0}
    monkeypatch.setattr(model, "_rate_with", lambda name, case: rates[case.batch])

    assert model.tuned_batch("ours", TINY) == 2


def test_compiled_contenders_take_the_batch_of_the_same_model(monkeypatch):
    monkeypatch.setattr(
        model, "tuned_batch", lambda name, case: {"ours": 8, "torchvision": 2}[name]
    )
    names = ["ours", "torchvision", "ours_compiled", "torchvision_compiled"]

    cases = model.batches(names, TINY._replace(device=torch.device("cuda")), None)

    assert [cases[name].batch for name in names] == [8, 2, 8, 2]
    assert {case.batch for case in model.batches(names, TINY, None).values()} == {1}


@pytest.mark.nightly
def test_a_fresh_process_reports_its_peak():
    result = contenders.run_alone("ours", TINY._replace(mode="infer"))

    assert result["peak_mb"] > 4 * 34e6 / 1e6  # the weights
    assert result["clock_s"] > 0
    assert result["cpu_s"] > 0


@pytest.fixture
def tiny(monkeypatch):
    """S on a clip of two frames, a round of each, and no processes for memory."""
    peaks = {"ours": 500.0, "torchvision": 1000.0}
    monkeypatch.setattr(lower_bounds, "published_input", lambda size: TINY_CLIP)
    monkeypatch.setattr(lower_bounds, "SMALL_CLIP", TINY_CLIP)
    monkeypatch.setattr(model, "MODELS", {"S": "mvitv2_s_16x4"})
    once = Rounds.exactly(1)
    monkeypatch.setattr(model, "QUICK_ROUNDS", {"infer": once, "train": once})
    monkeypatch.setattr(
        contenders, "run_alone", lambda name, case, num_runs: {"peak_mb": peaks[name]}
    )
    monkeypatch.setattr(lower_bounds, "copy_bandwidth", lambda device: 1e10)


@pytest.mark.nightly
def test_the_last_line_holds_the_ratios_and_where_they_come_from(tiny, tmp_path, capsys):
    assert model.main(["--quick", "--results", str(tmp_path)]) == 0

    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    [file] = tmp_path.iterdir()
    assert file.name.startswith("model_quick_")
    assert json.loads(file.read_text()) == record
    assert record["command"] == "python benchmarks/model.py --quick"
    for key in ("infer_fp32", "infer_bf16", "train_fp32", "train_bf16"):
        ours, theirs = (record["speed"][key][name] for name in ("ours", "torchvision"))
        expected = theirs["clock_s"] / ours["clock_s"]
        assert record[f"{key}_vs_torchvision"] == pytest.approx(expected, rel=1e-2)
        fraction = ours["floor_s"] / ours["clock_s"]
        assert ours["fraction_of_floor"] == pytest.approx(fraction, rel=1e-2)
    assert record["train_memory_vs_torchvision"] == 0.5
    assert record["bf16_in_hardware"] in (True, False)
    assert record["bf16_input_size"] == list(TINY_CLIP)
    assert max(record["logits_apart"]["fp32"].values()) < 1e-4


def test_a_faster_model_has_a_ratio_above_one():
    slow = {"batch": 2, "clock_s": 4.0, "cpu_s": 8.0, "clips_per_s": 0.5}
    fast = {"batch": 4, "clock_s": 2.0, "cpu_s": 4.0, "clips_per_s": 2.0}

    result = model.ratios({"infer_fp32": {"ours": fast, "torchvision": slow}}, {})

    assert result == {
        "infer_fp32_vs_torchvision": 4.0,
        "infer_fp32_vs_torchvision_in_cpu_time": 4.0,
    }
