"""The models that benchmarks/model.py compares: the same function with the same weights.

ours                   as ``create_model`` gives it
plain                  ours, with every attention score written out (``attention="plain"``)
accelerated            torchvision's model through ``sm.accelerate``
torchvision            its ``mvit_v2_s``; B and L are its ``MViT`` with our list of blocks
ours_compiled, torchvision_compiled     through ``torch.compile``
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.video.mvit import MSBlockConfig
from torchvision.models.video.mvit import MViT as TorchvisionMViT

from benchmarks.lower_bounds import Case, arguments_of, specs_of
from benchmarks.timing import in_fresh_process, measured, memory_mb
from slowfast_mvit.builders.accelerate import accelerate
from slowfast_mvit.builders.lists import mvit_from_lists
from slowfast_mvit.models import BlockSpec
from slowfast_mvit.weights.names import to_torchvision

SEED = 0
NUM_CLASSES = 400
MODES = ("infer", "train")
# How far logits may be from torchvision's in float32, as a share of their standard deviation.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.25}
CHECKPOINTING: dict[str, bool | str] = {"none": False, "blocks": True, "selective": "selective"}


def random_clips(case: Case) -> tuple[Tensor, Tensor]:
    """Return noise (B, 3, T, H, W) and labels (B,); the first clip is the same in any batch."""
    numbers = [torch.Generator().manual_seed(SEED + number) for number in range(case.batch)]
    clips = [torch.randn(3, *case.input_size, generator=generator) for generator in numbers]
    labels = [torch.randint(NUM_CLASSES, (), generator=generator) for generator in numbers]
    return torch.stack(clips).to(case.device), torch.stack(labels).to(case.device)


def work_of(model: nn.Module, case: Case) -> Callable[[], object]:
    """Return a forward pass, or a training step, of a model on clips that are on the device.

    The masks of dropout and drop path are other ones in each step, but the same in every run: a
    model may leave out what a mask drops, and then takes another time for each.
    """
    pixels, labels = random_clips(case)
    if case.mode == "infer":
        return lambda: logits_of(model, pixels, case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    seeds = itertools.count()

    def step() -> None:
        torch.manual_seed(next(seeds))
        with _autocast(case):
            loss = F.cross_entropy(model(pixels), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def logits_of(model: nn.Module, pixels: Tensor, case: Case) -> Tensor:
    """Return logits without gradients, in the precision of the case."""
    with torch.inference_mode(), _autocast(case):
        return model(pixels)  # type: ignore[no-any-return]


def _autocast(case: Case) -> torch.autocast:
    return torch.autocast(case.device.type, torch.bfloat16, enabled=case.precision == "bf16")


def build_ours(case: Case, attention: str = "fast") -> nn.Module:
    """Return our model; ``attention="plain"`` writes out every attention score."""
    return mvit_from_lists(
        **arguments_of(case.size, case.input_size),
        activation_checkpointing=CHECKPOINTING[case.checkpointing],
        attention=attention,
    )


def _pooling(spec: BlockSpec) -> list[list[int]]:
    kernels = (spec.kernel_q or (), spec.kernel_kv or ())
    return [list(sizes) for sizes in (*kernels, spec.stride_q, spec.stride_kv)]


def build_torchvision(case: Case) -> nn.Module:
    """Return torchvision's model with its own first weights."""
    arguments = arguments_of(case.size, case.input_size)
    return TorchvisionMViT(
        spatial_size=case.input_size[1:],
        temporal_size=case.input_size[0],
        block_setting=[
            MSBlockConfig(spec.num_heads, spec.dim, spec.dim_out, *_pooling(spec))
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
    "plain": functools.partial(build_ours, attention="plain"),
    "accelerated": lambda case: accelerate(build_torchvision(case)),
    "torchvision": build_torchvision,
}
_OF_TORCHVISION = ("torchvision", "accelerated")
COMPILED = {"ours_compiled": "ours", "torchvision_compiled": "torchvision"}
NAMES = (*EAGER, *COMPILED)


def build_all(cases: Mapping[str, Case]) -> dict[str, nn.Module]:
    """Return contenders by name, each for its case, with the same weights."""
    torch.manual_seed(SEED)
    first = next(iter(cases.values()))
    with first.device:
        weights = build_ours(first).state_dict()
    return {name: build_one(name, case, weights) for name, case in cases.items()}


def build_one(name: str, case: Case, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return one contender, in the mode of the case, on its device.

    Args:
        name: one of ``NAMES``.
        case: what it will run.
        weights: a state dict of ours; None leaves the first weights as they are.
    """
    eager = COMPILED.get(name, name)
    with case.device:  # where first values are drawn fastest
        model = EAGER[eager](case)
    if weights is not None:
        model.load_state_dict(to_torchvision(weights) if eager in _OF_TORCHVISION else weights)
    if eager in _OF_TORCHVISION and case.checkpointing != "none" and case.mode == "train":
        for block in model.blocks:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    model.train(case.mode == "train")
    return torch.compile(model) if name in COMPILED else model  # type: ignore[return-value]


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
    case = cases["torchvision"]._replace(batch=1, precision="fp32")
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


def run_alone(name: str, case: Case, *, num_runs: int = 1) -> dict[str, float]:
    """Measure peak memory and the best time of a contender in a fresh process.

    On a CPU memory is the most that the process ever held, minus what it held after the imports; so
    it includes weights, gradients, the optimizer's state and the clip. Linux only (/proc). On CUDA
    it is the most that PyTorch allocated.

    Args:
        name: one of ``NAMES``.
        case: what it runs.
        num_runs: runs that count, after a first one.

    Returns:
        ``peak_mb`` in 1e6 bytes, ``clock_s`` and ``cpu_s``.

    Raises:
        RuntimeError: it failed, for lack of memory perhaps.
    """
    return in_fresh_process(_measure_alone, name, case, num_runs)


def _measure_alone(name: str, case: Case, num_runs: int) -> dict[str, float]:
    """Measure in this process: the first run fills caches and makes the optimizer's state."""
    before_mb = memory_mb("VmRSS")
    work = work_of(build_one(name, case), case)
    work()
    runs = [measured(work, case.device) for _ in range(num_runs)]
    peak_mb = memory_mb("VmHWM") - before_mb
    if case.device.type == "cuda":
        peak_mb = torch.cuda.max_memory_allocated(case.device) / 1e6
    return {
        "peak_mb": round(peak_mb, 1),
        "clock_s": min(seconds.clock for seconds in runs),
        "cpu_s": min(seconds.cpu for seconds in runs),
    }
