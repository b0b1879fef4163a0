"""DDP and FSDP2 on ranks of this machine, compared with one process."""

import copy

import pytest
import torch
from ranks import run_ranks
from small_runs import CPU, SmallRun, equal, global_batch, largest_difference, small_mvit
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from slowfast_mvit.errors import ConfigError, WeightsError
from slowfast_mvit.runtime.checkpoint import checkpoint_path, load_training_state, save_checkpoint
from slowfast_mvit.runtime.distributed import is_main, rank
from slowfast_mvit.runtime.parallel import (
    bare_model,
    evaluation_model,
    parallelise,
    total_norm,
    whole,
    whole_state,
)

STRATEGIES = ["ddp", "fsdp"]
by_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def ten_steps(strategy, accum=1, **options):
    run = SmallRun(strategy, **options)
    run.backward(0, accum)
    gradients = run.gradients()
    run.optimizer.zero_grad()
    for step in range(10):
        run.step(step, accum)
    return gradients, run.states()


def ten_checkpointed_steps_of_two_batches(strategy):
    return ten_steps(strategy, accum=2, activation_checkpointing=True)


def ten_selectively_checkpointed_steps(strategy):
    return ten_steps(strategy, activation_checkpointing="selective")


@pytest.fixture(scope="module")
def alone():
    """Gradients of the first step of one process, and its states after ten."""
    return ten_steps("alone")


@pytest.mark.parametrize(
    "steps",
    [ten_steps, ten_checkpointed_steps_of_two_batches, ten_selectively_checkpointed_steps],
)
@by_strategy
def test_two_ranks_train_as_one_process_does(alone, strategy, steps):
    (gradients, states), (gradients_there, _) = run_ranks(steps, 2, strategy)

    expected_gradients, expected = alone
    assert largest_difference(gradients, expected_gradients) <= 1e-6
    assert equal(gradients_there, gradients)
    assert largest_difference(states["model"], expected["model"]) <= 5e-4
    assert largest_difference(states["ema"], expected["ema"]) <= 5e-4
    assert described(states) == described(expected)  # files do not depend on the strategy
    assert states["optimizer"]["param_groups"] == expected["optimizer"]["param_groups"]


def described(states):
    """Names in their order, with shapes and number formats."""
    if isinstance(states, dict):
        return [(name, described(value)) for name, value in states.items()]
    if isinstance(states, torch.Tensor):
        return type(states), states.shape, states.dtype, states.device
    return type(states)


def save_after_three_steps(output_dir):
    run = SmallRun("fsdp", depth=1)
    for step in range(3):
        run.step(step)
    states = run.states()
    if is_main():
        save_checkpoint(
            output_dir,
            epoch=0,
            model_state=states["model"],
            optimizer_state=states["optimizer"],
            ema_state=states["ema"],
            cfg_text="",
            extra={},
        )
    run.step(3)
    return states, run.states()


def resume_one_step(path):
    run = SmallRun("fsdp", seed=99, depth=1)
    load_training_state(path, run.module, run.optimizer, ema=run.average.module)
    run.average.n_averaged.fill_(3)
    states = run.states()
    run.step(3)
    return states, run.states()


def test_one_and_four_ranks_resume_from_a_file_of_two(tmp_path):
    saved, after_one_more = run_ranks(save_after_three_steps, 2, tmp_path)[0]
    path = tmp_path / "checkpoints" / "checkpoint_epoch_00001.pyth"

    for loaded, next_one in (resume_one_step(path), run_ranks(resume_one_step, 4, path)[0]):
        assert equal(loaded, saved)
        assert largest_difference(next_one["model"], after_one_more["model"]) <= 5e-4
        assert largest_difference(next_one["ema"], after_one_more["ema"]) <= 5e-4


def save_and_load(output_dir, strategy, num_steps, options):
    """States before saving, and after loading them into another run of each strategy."""
    run = SmallRun(strategy, depth=1, **options)
    for step in range(num_steps):
        run.step(step)
    states = run.states()
    if is_main():
        save_checkpoint(
            output_dir,
            epoch=0,
            model_state=states["model"],
            optimizer_state=states["optimizer"],
            ema_state=states["ema"],
            cfg_text="",
            extra={},
        )
    loaded = []
    for other in STRATEGIES:
        run = SmallRun(other, seed=99, depth=1, **options)
        path = checkpoint_path(output_dir, 0)
        load_training_state(path, run.module, run.optimizer, ema=run.average.module)
        loaded.append(run.states())
        for parameter, values in run.optimizer.state.items():
            assert {type(value) for value in values.values() if value.ndim} == (
                {DTensor} if isinstance(parameter, DTensor) else {torch.Tensor}
            )
    return states, loaded


KINDS_OF_RUNS = [
    (2, {}),
    (0, {}),  # its optimizer has no state yet
    (1, {"frozen": ("patch_embed", "blocks.0.attn", "norm.bias")}),
    (1, {"detach_head": True}),
]


def save_and_load_each_kind(output_dir, strategy):
    return [save_and_load(output_dir, strategy, *kind) for kind in KINDS_OF_RUNS]


@by_strategy
def test_a_checkpoint_fits_both_strategies_to_the_bit(tmp_path, strategy):
    results = run_ranks(save_and_load_each_kind, 2, tmp_path, strategy)

    empty = {"model": {}, "optimizer": {}, "ema": {}}
    assert results[1] == [(empty, [empty, empty])] * len(KINDS_OF_RUNS)  # only rank 0 gathers
    for (num_steps, _), (states, loaded) in zip(KINDS_OF_RUNS, results[0], strict=True):
        assert bool(states["optimizer"]["state"]) == (num_steps > 0)
        for other in loaded:
            assert equal(other, states)
            assert described(other) == described(states)


def load_another_model(path):
    run = SmallRun("fsdp", depth=2)
    with pytest.raises(WeightsError, match="does not fit this model"):
        load_training_state(path, run.module, run.optimizer)
    return rank()


def test_every_rank_raises_for_a_checkpoint_that_does_not_fit(tmp_path):
    run_ranks(save_after_three_steps, 2, tmp_path)
    path = checkpoint_path(tmp_path, 0)

    assert run_ranks(load_another_model, 2, path) == [0, 1]


def parameters_that_move(strategy, options):
    run = SmallRun(strategy, **options)
    before = copy.deepcopy(run.states()["model"])
    run.step(0)
    after = run.states()["model"]
    return [name for name in after if not torch.equal(after[name], before[name])]


@by_strategy
def test_frozen_parameters_stay(strategy):
    frozen = ("patch_embed", "blocks.0.attn", "norm.bias")

    moved = run_ranks(parameters_that_move, 2, strategy, {"depth": 1, "frozen": frozen})[0]

    names = [name for name, _ in small_mvit(depth=1).named_parameters()]
    assert moved == [name for name in names if not name.startswith(frozen)]


@by_strategy
def test_a_detached_head_is_trained_alone(strategy):
    options = {"depth": 1, "detach_head": True, "frozen": ("patch_embed", "blocks", "norm")}

    moved = run_ranks(parameters_that_move, 2, strategy, options)[0]

    assert {"head.projection.weight", "head.projection.bias"} == set(moved)


def gradients_behind_a_detached_head(strategy):
    run = SmallRun(strategy, depth=1, detach_head=True)
    run.backward(0)
    return [name for name, gradient in run.gradients().items() if gradient.any()]


@by_strategy
def test_a_trunk_without_gradients_does_not_block_other_ranks(strategy):
    (named, named_there) = run_ranks(gradients_behind_a_detached_head, 2, strategy)

    assert named == named_there == ["head.projection.weight", "head.projection.bias"]


def first_weights(strategy):
    run = SmallRun(strategy, seed=rank(), depth=1)
    return {name: whole(p.detach()) for name, p in run.model.named_parameters()}


@by_strategy
def test_every_rank_starts_from_the_weights_of_the_first(strategy):
    first, second = run_ranks(first_weights, 2, strategy)

    assert equal(first, small_mvit(depth=1).state_dict())
    assert equal(second, first)


def clipped(strategy):
    run = SmallRun(strategy, depth=1)
    run.backward(0)
    parameters = list(run.model.parameters())
    norm = total_norm(parameters)
    clip_grad_value_(parameters, 0.01)
    after_values = run.gradients()
    clip_grads_with_norm_(parameters, 0.05, total_norm(parameters))
    return {"norm": norm}, after_values, run.gradients()


@by_strategy
def test_gradients_are_clipped_as_in_one_process(strategy):
    results = run_ranks(clipped, 2, strategy)

    expected = clipped("alone")
    assert get_total_norm(expected[2].values()).item() == pytest.approx(0.05, rel=1e-4)
    for result in results:
        for part, expected_part in zip(result, expected, strict=True):
            assert largest_difference(part, expected_part) <= 1e-6


def one_infinite_gradient(strategy):
    run = SmallRun(strategy, depth=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = copy.deepcopy(run.states())
    clips = global_batch(0)[0].chunk(2)[rank()]
    loss = run.module(clips).sum() * (float("inf") if rank() == 1 else 1.0)
    scaler.scale(loss).backward()
    scaler.unscale_(run.optimizer)
    scaler.step(run.optimizer)
    scaler.update()
    return scaler.get_scale(), equal(run.states()["model"], before["model"])


@by_strategy
def test_all_ranks_skip_a_step_when_one_overflows(strategy):
    results = run_ranks(one_infinite_gradient, 2, strategy)

    assert results == [(2.0, True), (2.0, True)]


def rounded_gradients():
    gradients = []
    for strategy in STRATEGIES:
        # The kernels for a CPU, which round at other places, do not take layers that fsdp has cut.
        run = SmallRun(strategy, precision="bf16", attention="folded")
        run.backward(0, accum=2)
        gradients.append(run.gradients())
    return gradients


def test_rounding_before_travelling_changes_no_number():
    ddp, fsdp = run_ranks(rounded_gradients, 2)[0]

    assert {gradient.dtype for gradient in fsdp.values()} == {torch.float32}
    assert largest_difference(fsdp, ddp) <= 1e-7


def scores_of_own_clips(strategy):
    """The first of two ranks scores two batches of one clip, the second one."""
    run = SmallRun(strategy, depth=1)
    run.step(0)
    clips = global_batch(3, size=3)[0].unsqueeze(1)
    clips_of_rank = clips if strategy == "alone" else clips.tensor_split([2])[rank()]
    models = [(run.module, run.model), (run.average.module, run.average.module)]
    models = [evaluation_model(*pair) for pair in models]
    with torch.no_grad():
        scores = [torch.cat([model(clip) for clip in clips_of_rank]) for model in models]
    run.step(1)
    return torch.stack(scores), type(models[0]).__name__, run.states()


@by_strategy
def test_evaluation_waits_for_no_other_rank_and_moves_nothing(strategy):
    (scores, kind, states), (scores_there, _, _) = run_ranks(scores_of_own_clips, 2, strategy)

    expected, expected_kind, expected_states = scores_of_own_clips("alone")
    assert kind == expected_kind == "FastMViT"
    scores = torch.cat([scores, scores_there], dim=1)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
    assert largest_difference(states["model"], expected_states["model"]) <= 5e-4


def test_one_process_gets_its_model_back():
    model = small_mvit(depth=1)

    for strategy in STRATEGIES:
        assert parallelise(model, strategy=strategy, device=CPU) is model
    assert evaluation_model(model, model) is bare_model(model) is model


def test_an_unknown_strategy_is_named():
    with pytest.raises(ConfigError, match=r"no strategy .* named 'fdsp'. Did you mean 'fsdp'"):
        parallelise(small_mvit(depth=1), strategy="fdsp", device=CPU)


def compiled_gradients(strategy):
    run = SmallRun(strategy, compile_backend="eager", depth=1)
    run.backward(0)
    plain = SmallRun("alone", depth=1)
    plain.backward(0)
    difference = largest_difference(run.gradients(), plain.gradients())
    return difference, list(run.states()["model"])


def test_a_compiled_model_keeps_names_and_numbers_on_two_ranks():
    difference, names = run_ranks(compiled_gradients, 2, "ddp")[0]

    assert difference <= 1e-6
    assert names == list(small_mvit(depth=1).state_dict())


def test_states_of_one_process_are_those_of_torch():
    run = SmallRun("alone", depth=1)
    run.step(0)

    assert equal(whole_state(run.module), run.model.state_dict())
    assert equal(run.states()["optimizer"], run.optimizer.state_dict())
