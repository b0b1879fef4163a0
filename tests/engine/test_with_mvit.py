"""The loops with a real, small MViT, which keeps tables between its calls."""

import torch
from tiny_run import CPU, Batches, prepare_views, tiny_train

from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.engine.test import score_videos, validate
from slowfast_mvit.optim.objectives import cross_entropy
from slowfast_mvit.randomness import generator
from slowfast_mvit.runtime.checkpoint import checkpoint_path
from slowfast_mvit.structures import ClipBatch


def small_mvit():
    torch.manual_seed(0)
    return mvit_from_lists(
        input_size=(4, 32, 32),
        num_classes=4,
        embed_dim=16,
        depth=2,
        dim_mul=[[1, 2.0]],
        head_mul=[[1, 2.0]],
        pool_q_stride=[[0, 1, 1, 1], [1, 1, 2, 2]],
        pool_kv_stride_adaptive=[1, 2, 2],
        pool_kvq_kernel=[3, 3, 3],
        drop_path=0.2,
        head_dropout=0.5,
    )


def clips(num_views):
    pixels = generator(0, 0, 0, 0).integers(0, 256, (4, num_views, 3, 4, 32, 32), dtype="uint8")
    return Batches(
        [
            ClipBatch(
                pixels=torch.from_numpy(pixels),
                labels=torch.arange(4),
                video_ids=tuple("abcd"),
                views=torch.tensor([[view, 0] for view in range(num_views)]),
            )
        ]
    )


def test_validating_before_and_between_changes_no_weight(tmp_path):
    def run(folder, validated):
        model = small_mvit()

        def measure(epoch, should_stop=None):
            return validate(
                model, clips(1), prepare_views, cross_entropy, device=CPU, forward_batch=4
            )

        if validated:
            measure(-1)
        return tiny_train(
            model,
            tmp_path / folder,
            loader=clips(2),
            max_epoch=2,
            validate=measure if validated else None,
        ).state_dict()

    with_it, without = run("with", True), run("without", False)

    assert all(torch.equal(with_it[name], without[name]) for name in without)


def test_a_resumed_run_scores_as_the_unbroken_one(tmp_path):
    def scores(model):
        results = score_videos(model, clips(3), prepare_views, device=CPU, forward_batch=5)
        return [result.probs.tolist() for result in results]

    unbroken = tiny_train(small_mvit(), tmp_path, loader=clips(2), max_epoch=2)
    resumed = tiny_train(
        small_mvit(),
        tmp_path,
        loader=clips(2),
        max_epoch=2,
        resume_from=checkpoint_path(tmp_path, 0),
    )

    assert scores(resumed) == scores(unbroken)
