"""The models that benchmarks/model.py compares, each the same function with the same weights.

ours                   as ``create_model`` gives it
plain                  ours, with every attention score written out (``attention="plain"``)
torchvision            its ``mvit_v2_s``; B and L are its ``MViT`` with our list of blocks
ours_compiled, torchvision_compiled     through ``torch.compile``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.video.mvit import MSBlockConfig
from torchvision.models.video.mvit import MViT as TorchvisionMViT

from benchmarks.operations import arguments_of, specs_of
from benchmarks.passes import CHECKPOINTING, SEED, Case, logits_of, random_clips
from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.models.tables import THW
from slowfast_mvit.weights.names import to_torchvision

# How far logits may be from torchvision's in float32, as a share of their standard deviation.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.25}


def build_ours(case: Case, **changes: Any) -> nn.Module:
    return mvit_from_lists(
        **arguments_of(case.size, case.input_size),
        activation_checkpointing=CHECKPOINTING[case.checkpointing],
        **changes,
    )


def build_plain(case: Case) -> nn.Module:
    return build_ours(case, attention="plain")


def build_torchvision(case: Case) -> nn.Module:
    """torchvision's model with its own first weights."""
    arguments = arguments_of(case.size, case.input_size)
    return TorchvisionMViT(
        spatial_size=case.input_size[1:],
        temporal_size=case.input_size[0],
        block_setting=[
            MSBlockConfig(
                num_heads=spec.num_heads,
                input_channels=spec.dim,
                output_channels=spec.dim_out,
                kernel_q=list(spec.kernel_q or ()),
                kernel_kv=list(spec.kernel_kv or ()),
                stride_q=list(spec.stride_q),
                stride_kv=list(spec.stride_kv),
            )
            for spec in specs_of(case.size, case.input_size)
        ],
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        dropout=arguments["head_dropout"],
        stochastic_depth_prob=arguments["drop_path"],
        num_classes=arguments["num_classes"],
    )


EAGER: dict[str, Callable[[Case], nn.Module]] = {
    "ours": build_ours,
    "plain": build_plain,
    "torchvision": build_torchvision,
}
COMPILED = {"ours_compiled": "ours", "torchvision_compiled": "torchvision"}
NAMES = (*EAGER, *COMPILED)


def build_all(cases: Mapping[str, Case]) -> dict[str, nn.Module]:
    """Contenders by name, each for its case, with the same weights."""
    torch.manual_seed(SEED)
    first = next(iter(cases.values()))
    with first.device:
        weights = build_ours(first).state_dict()
    return {name: build_one(name, case, weights) for name, case in cases.items()}


def build_one(name: str, case: Case, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """One contender, in the mode of the case, on its device.

    Args:
        name: one of ``NAMES``.
        case: what it will run.
        weights: a state dict of ours; None leaves the first weights as they are.
    """
    eager = COMPILED.get(name, name)
    with case.device:  # where first values are made soonest
        model = EAGER[eager](case)
    if weights is not None:
        model.load_state_dict(to_torchvision(weights) if eager == "torchvision" else weights)
    if case.checkpointing != "none" and eager == "torchvision":
        model.blocks = nn.ModuleList(Checkpointed(block) for block in model.blocks)
    model.train(case.mode == "train")
    return torch.compile(model) if name in COMPILED else model  # type: ignore[return-value]


class Checkpointed(nn.Module):
    """A block of torchvision's whose insides are computed again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: Tensor, thw: THW) -> tuple[Tensor, THW]:
        if not self.training:
            return self.block(tokens, thw)  # type: ignore[no-any-return]
        return checkpoint(self.block, tokens, thw, use_reentrant=False)  # type: ignore[no-any-return]


def differences(models: Mapping[str, nn.Module], cases: Mapping[str, Case]) -> dict[str, float]:
    """Return the distance of each contender's logits from torchvision's in float32, for one clip.

    Args:
        models: by name, in evaluation, "torchvision" among them.
        cases: what each runs; the clip is the first of its batch.

    Returns:
        The largest difference, as a share of the standard deviation of the logits.

    Raises:
        RuntimeError: they are so far apart that it is not the same function.
    """
    case = replace(cases["torchvision"], batch=1, precision="fp32")
    reference = logits_of(models["torchvision"], random_clips(case)[0], case)[0]
    apart = {}
    for name, model in models.items():
        logits = logits_of(model, random_clips(cases[name])[0], cases[name])[0].float()
        apart[name] = float((logits - reference).abs().max() / reference.std())
    precision = cases["torchvision"].precision
    most = TOLERANCE[precision]
    wrong = [f"{name} by {share:.3g}" for name, share in apart.items() if share > most]
    if wrong:
        raise RuntimeError(
            f"{case.size}, {precision}: logits are not those of torchvision in float32: "
            f"{', '.join(wrong)} of their standard deviation; {most:g} would be rounding. "
            "Nothing was timed"
        )
    return apart
