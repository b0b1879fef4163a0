"""20 steps of the published recipes against torchvision's model, torch.optim and written formulas.

What PySlowFast does is written out here from its description: parameter groups by hand, learning
rates at fractional epochs, mixup and cutmix, soft cross entropy, clipping. The draws are those of
the loop; dropout and drop path are on in one of the recipes.
"""

import math
import re

import pytest
import torch
from renaming import from_torchvision
from tiny_run import Batches, tiny_train
from torchvision.models.video import mvit

from slowfast_mvit import builders
from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.config import load_config
from slowfast_mvit.data.views.batch_augmentation import mix
from slowfast_mvit.optim.objectives import Recognition
from slowfast_mvit.randomness import BATCH, MODEL_MASKS, generator
from slowfast_mvit.structures import ClipBatch

SEED, EPOCHS, STEPS = 11, 4, 5  # 20 steps in all
NUM_CLASSES, NUM_VIDEOS, NUM_VIEWS = 6, 3, 2
INPUT_SIZE = (4, 32, 32)
# width in, width out, heads, stride of the queries, stride of the keys
BLOCKS = [(16, 16, 1, 1, 4), (16, 32, 2, 2, 2), (32, 32, 2, 1, 2)]

# The keys of each recipe that these tests turn on, brought to a run of four short epochs.
ADAMW = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "decay": 0.05,
    "clip": 1.0,
    "layer_decay": 1.0,
    "drop_path": 0.0,
    "head_dropout": 0.0,
}
RECIPES = {
    "Kinetics": ADAMW,
    "Kinetics with masks": ADAMW | {"drop_path": 0.4, "head_dropout": 0.5},
    "Something-Something": ADAMW | {"optimizer": "sgd", "lr": 0.05, "decay": 1e-4, "clip": None},
    "fine-tuning": ADAMW | {"layer_decay": 0.75, "clip": 5.0},
}
WARMUP_EPOCHS, WARMUP_LR, END_LR = 1.5, 1e-5, 1e-6


def their_model(recipe):
    blocks = [
        mvit.MSBlockConfig(
            num_heads=heads,
            input_channels=wide_in,
            output_channels=wide_out,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, q, q],
            stride_kv=[1, kv, kv],
        )
        for wide_in, wide_out, heads, q, kv in BLOCKS
    ]
    torch.manual_seed(0)
    return mvit.MViT(
        spatial_size=INPUT_SIZE[1:],
        temporal_size=INPUT_SIZE[0],
        block_setting=blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        dropout=recipe["head_dropout"],
        stochastic_depth_prob=recipe["drop_path"],
        num_classes=NUM_CLASSES,
    )


def our_model(state, recipe):
    model = mvit_from_lists(
        input_size=INPUT_SIZE,
        num_classes=NUM_CLASSES,
        embed_dim=16,
        depth=3,
        dim_mul=[[1, 2.0]],
        head_mul=[[1, 2.0]],
        pool_q_stride=[[0, 1, 1, 1], [1, 1, 2, 2], [2, 1, 1, 1]],
        pool_kv_stride=[[0, 1, 4, 4], [1, 1, 2, 2], [2, 1, 2, 2]],
        pool_kvq_kernel=[3, 3, 3],
        drop_path=recipe["drop_path"],
        head_dropout=recipe["head_dropout"],
    )
    model.load_state_dict(from_torchvision(state))
    return model


def batches():
    rng = generator(SEED, 0, 0, 0)
    size = (NUM_VIDEOS, NUM_VIEWS, 3, *INPUT_SIZE)
    return Batches(
        [
            ClipBatch(
                pixels=torch.from_numpy(rng.integers(0, 256, size, dtype="uint8")),
                labels=torch.from_numpy(rng.integers(0, NUM_CLASSES, NUM_VIDEOS)),
                video_ids=tuple("abc"),
                views=torch.tensor([[view, 0] for view in range(NUM_VIEWS)]),
            )
            for _ in range(STEPS)
        ]
    )


def lr_at(epoch, base_lr):
    def wave(epoch):
        progress = (epoch - WARMUP_EPOCHS) / (EPOCHS - WARMUP_EPOCHS)
        return END_LR + (base_lr - END_LR) * 0.5 * (1 + math.cos(math.pi * progress))

    if epoch < WARMUP_EPOCHS:
        return WARMUP_LR + epoch * (wave(WARMUP_EPOCHS) - WARMUP_LR) / WARMUP_EPOCHS
    return wave(epoch)


def parameter_groups(model, recipe):
    """A group for each parameter, with its weight decay and the factor on its learning rate.

    torchvision's class token has one axis, PySlowFast's three: it is decayed.
    """
    groups = []
    for name, parameter in model.named_parameters():
        is_decayed = parameter.ndim > 1 or name == "pos_encoding.class_token"
        block = re.match(r"blocks\.(\d+)", name)
        is_first = name.startswith(("conv_proj", "pos_encoding"))
        layer = 0 if is_first else int(block[1]) + 1 if block else len(BLOCKS) + 1
        groups.append(
            {
                "params": [parameter],
                "weight_decay": recipe["decay"] if is_decayed else 0.0,
                "factor": recipe["layer_decay"] ** (len(BLOCKS) + 1 - layer),
            }
        )
    return groups


def mixed(clips, labels, rng):
    """Mixup (0.8) or CutMix (1.0), one or the other by a coin, and labels smoothed by 0.1."""
    off = 0.1 / NUM_CLASSES
    targets = torch.full((len(clips), NUM_CLASSES), off, dtype=clips.dtype)
    targets[torch.arange(len(clips)), labels] = 1 - 0.1 + off
    rng.random()  # whether to mix at all: always
    if rng.random() < 0.5:
        share = rng.beta(1.0, 1.0)
        height, width = clips.shape[-2:]
        half_h, half_w = (int(side * math.sqrt(1 - share)) // 2 for side in (height, width))
        y, x = rng.integers(0, height), rng.integers(0, width)
        rows = slice(max(y - half_h, 0), min(y + half_h, height))
        columns = slice(max(x - half_w, 0), min(x + half_w, width))
        mixture = clips.clone()
        mixture[..., rows, columns] = clips.flip(0)[..., rows, columns]
        cut = (rows.stop - rows.start) * (columns.stop - columns.start)
        share = 1 - cut / (height * width)
    else:
        share = rng.beta(0.8, 0.8)
        mixture = share * clips + (1 - share) * clips.flip(0)
    return mixture, share * targets + (1 - share) * targets.flip(0)


def normalised(batch, dtype):
    return (batch.pixels.flatten(0, 1).to(dtype) / 255 - 0.45) / 0.225


def their_losses(model, recipe, dtype):
    groups = parameter_groups(model, recipe)
    if recipe["optimizer"] == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8)
    else:
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, nesterov=True)
    losses = []
    for epoch in range(EPOCHS):
        for step, batch in enumerate(batches().batches):
            for group in optimizer.param_groups:
                group["lr"] = lr_at(epoch + step / STEPS, recipe["lr"]) * group["factor"]
            labels = batch.labels.repeat_interleave(NUM_VIEWS)
            rng = generator(SEED, epoch, step, BATCH)
            clips, targets = mixed(normalised(batch, dtype), labels, rng)
            torch.manual_seed(int(generator(SEED, epoch, step, MODEL_MASKS).integers(1 << 63)))
            loss = -(targets * model(clips).log_softmax(1)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            if recipe["clip"] is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["clip"])
            optimizer.step()
            losses.append(loss.item())
    return losses


def config_of(recipe):
    keys = {
        "SOLVER.OPTIMIZING_METHOD": recipe["optimizer"],
        "SOLVER.BASE_LR": recipe["lr"],
        "SOLVER.WEIGHT_DECAY": recipe["decay"],
        "SOLVER.CLIP_GRAD_L2NORM": recipe["clip"],
        "SOLVER.LAYER_DECAY": recipe["layer_decay"],
        "SOLVER.ZERO_WD_1D_PARAM": True,
        "SOLVER.MAX_EPOCH": EPOCHS,
        "SOLVER.WARMUP_EPOCHS": WARMUP_EPOCHS,
        "SOLVER.WARMUP_START_LR": WARMUP_LR,
        "SOLVER.COSINE_END_LR": END_LR,
        "SOLVER.COSINE_AFTER_WARMUP": True,
        "MVIT.ZERO_DECAY_POS_CLS": False,
        "MIXUP.ENABLE": True,
        "MODEL.LOSS_FUNC": "soft_cross_entropy",
        "MODEL.NUM_CLASSES": NUM_CLASSES,
    }
    return load_config(None, [str(word) for pair in keys.items() for word in pair])


def our_losses(model, recipe, dtype, output_dir):
    config = config_of(recipe)
    objective, losses = builders.build_objective(config), []
    if dtype == torch.float64:  # what is built makes float32 pixels
        objective = Recognition(
            lambda batch, rng: mix(
                normalised(batch, dtype),
                batch.labels.repeat_interleave(NUM_VIEWS),
                rng,
                num_classes=NUM_CLASSES,
            ),
            objective.loss,
        )

    def noted(model, batch, rng):
        outcome = objective(model, batch, rng)
        losses.append(outcome.loss.item())
        return outcome

    tiny_train(
        model,
        output_dir,
        objective=noted,
        optimizer=builders.build_optimizer(config, model),
        lr_at=builders.build_schedule(config),
        loader=batches(),
        max_epoch=config.solver.max_epoch,
        seed=SEED,
        clip_norm=config.solver.clip_grad_l2norm,
    )
    return losses


@pytest.mark.parametrize("recipe", RECIPES)
def test_20_steps_in_float64_are_those_of_the_reference(recipe, tmp_path):
    theirs = their_model(RECIPES[recipe]).double()
    ours = our_model(theirs.state_dict(), RECIPES[recipe]).double()

    actual = our_losses(ours, RECIPES[recipe], torch.float64, tmp_path)

    expected = their_losses(theirs, RECIPES[recipe], torch.float64)
    assert len(actual) == 20 and actual[-1] != actual[0]
    assert actual == pytest.approx(expected, rel=1e-9, abs=0)
    trained = from_torchvision(theirs.state_dict())
    for name, parameter in ours.state_dict().items():
        torch.testing.assert_close(parameter, trained[name], rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("recipe", ["Kinetics", "Something-Something"])
def test_20_steps_in_float32_have_the_losses_of_the_reference(recipe, tmp_path):
    theirs = their_model(RECIPES[recipe])
    ours = our_model(theirs.state_dict(), RECIPES[recipe])

    actual = our_losses(ours, RECIPES[recipe], torch.float32, tmp_path)

    # No weights are compared: Adam makes steps of full size out of the rounding errors of gradients
    # that are 0, such as those of biases of keys.
    expected = their_losses(theirs, RECIPES[recipe], torch.float32)
    assert len(actual) == 20
    assert actual == pytest.approx(expected, rel=1e-4, abs=0)
