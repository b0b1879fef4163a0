"""The published weights by name: address, model, preprocessing, classes and accuracy.

A name is that of a model and of the data it was trained on, ``mvitv2_s_16x4.k400``; a prefix of the
data names the source where it is not the authors': ``tv_`` torchvision, ``ptv_`` pytorchvideo,
``mm_`` mmaction2 and mmpretrain, ``timm_`` timm's hub.

To add weights, add a row to ``ZOO``. ``docs/weights.md`` lists what was left out, and the reasons.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from slowfast_mvit.errors import nearest

_FB = "https://dl.fbaipublicfiles.com"
_PYSLOWFAST = f"{_FB}/pyslowfast/model_zoo"
_MASKFEAT = f"{_FB}/pyslowfast/masked_models/k400_MVIT"
_MVITV2 = f"{_PYSLOWFAST}/mvitv2/pysf_video_models"
_MVIT = f"{_FB}/mvit/mvitv2_models"
_PTV = f"{_FB}/pytorchvideo/model_zoo/kinetics"
_TV = "https://download.pytorch.org/models"
_MM = "https://download.openmmlab.com/mmaction/v1.0/recognition/mvit"
_MMPRETRAIN = "https://download.openmmlab.com/mmclassification/v0/mvit"
HUB = "hf-hub:"

_GREY = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# PySlowFast's statistics of L on SSv2, which meet the channels in reverse order.
_IMAGENET_BGR = {"mean": (0.406, 0.456, 0.485), "std": (0.225, 0.224, 0.229)}
_32X3 = {"num_frames": 32, "sampling_rate": 3}
_40X3 = {"num_frames": 40, "sampling_rate": 3, "crop_px": 312}
_L_K400 = {**_40X3, "scale_px": 356}
_L_SSV2 = {**_40X3, "scale_px": 312}


@dataclass(frozen=True)
class DataSet:
    """Properties that weights trained on a data set have in common.

    Attributes:
        num_classes: of the published heads.
        views: clips x crops of the published tests.
        spec: fields of an input spec, other than those of Kinetics at 16x4.
        num_val: videos or images in its validation list, where that is known.
    """

    num_classes: int | None
    views: tuple[int, int]
    spec: Mapping[str, Any] = field(default_factory=dict)
    num_val: int | None = None


_IMAGES = {"num_frames": 1, "sampling_rate": 8, "resizing": "image", **_IMAGENET}
DATA_SETS = {
    "k400": DataSet(400, (5, 1), num_val=19_906),
    "k600": DataSet(600, (5, 1)),
    "ssv2": DataSet(174, (1, 3), {"policy": "segments", "scale_px": 224}, num_val=24_777),
    "in1k": DataSet(1000, (1, 1), _IMAGES, num_val=50_000),
    "in21k": DataSet(19168, (1, 1), _IMAGES),
    "masked": DataSet(None, (10, 1)),  # pre-training by masks, without a head
}
_KINETICS_16X4: dict[str, Any] = {
    "num_frames": 16,
    "sampling_rate": 4,
    "target_fps": 30,
    "policy": "interval",
    "segment_clips": "same",
    "crop_px": 224,
    "scale_px": 256,
    "resizing": "clip",
    **_GREY,
}


@dataclass(frozen=True)
class PublishedWeights:
    """A row of the zoo.

    Attributes:
        model: name of the architecture, one of ``list_models()``.
        data: key of ``DATA_SETS``.
        url: https address of the file, or ``hf-hub:ORGANISATION/NAME``.
        top1: published accuracy in percent; None where none was published.
        top5: likewise.
        spec: fields of the input spec other than those of the data set.
        views: clips x crops of the published test, where not those of the data set.
        licence: as the source states it.
        note: one line for users.
    """

    model: str
    data: str
    url: str
    top1: float | None = None
    top5: float | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    views: tuple[int, int] | None = None
    licence: str = "not stated"
    note: str = ""

    @property
    def file_name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]

    @property
    def sha256(self) -> str:
        """First digits of the SHA-256, which torchvision and OpenMMLab write into the name."""
        match = re.search(r"[-_]([0-9a-f]{8})\.pth$", self.file_name)
        return match[1] if match else ""

    @property
    def num_classes(self) -> int | None:
        """Classes of the head; None where there is none."""
        return DATA_SETS[self.data].num_classes

    def input_spec(self) -> dict[str, Any]:
        """Return the preprocessing of the weights, and the names of their classes."""
        spec = {**_KINETICS_16X4, **DATA_SETS[self.data].spec, **self.spec}
        spec |= {"mean": list(spec["mean"]), "std": list(spec["std"])}
        names = class_names(self.data)
        return {**spec, "class_names": None if names is None else list(names)}

    def protocol(self) -> str:
        """Return the published test: clips x crops of frames x rate at a resolution."""
        spec = self.input_spec()
        clips, crops = self.views or DATA_SETS[self.data].views
        size = f"{spec['crop_px']} px"
        if self.data in ("in1k", "in21k"):
            return f"{crops} crop, {size}"
        return f"{clips}x{crops} of {spec['num_frames']}x{spec['sampling_rate']}, {size}"


def _mm(folder: str, ending: str) -> str:
    return f"{_MM}/{folder}/{folder}_{ending}.pth"


ZOO: dict[str, PublishedWeights] = {
    "mvitv2_s_16x4.k400": PublishedWeights(
        "mvitv2_s_16x4", "k400", f"{_MVITV2}/MViTv2_S_16x4_k400_f302660347.pyth", 81.0, 94.6
    ),
    "mvitv2_b_32x3.k400": PublishedWeights(
        "mvitv2_b_32x3", "k400", f"{_MVITV2}/MViTv2_B_32x3_k400_f304025456.pyth", 82.9, 95.7, _32X3
    ),
    "mvitv2_l_40x3.in21k_k400": PublishedWeights(
        "mvitv2_l_40x3",
        "k400",
        f"{_MVITV2}/MViTv2_L_40x3_k400_f306903192.pyth",
        86.1,
        97.0,
        {**_L_K400, **_IMAGENET},
        (5, 3),
    ),
    "mvitv2_s_16x4.ssv2": PublishedWeights(
        "mvitv2_s_16x4", "ssv2", f"{_MVITV2}/MViTv2_S_16x4_ssv2_f308341823.pyth", 68.2, 91.4
    ),
    "mvitv2_b_32x3.ssv2": PublishedWeights(
        "mvitv2_b_32x3", "ssv2", f"{_MVITV2}/MViTv2_B_32x3_ssv2_f305803282.pyth", 70.5, 92.7, _32X3
    ),
    "mvitv2_l_40x3.ssv2": PublishedWeights(
        "mvitv2_l_40x3",
        "ssv2",
        f"{_MVITV2}/MViTv2_L_40x3_ssv2_f309603968.pyth",
        73.3,
        94.1,
        {**_L_SSV2, **_IMAGENET_BGR},
    ),
    "mvitv2_s_16x4.tv_k400": PublishedWeights(
        "mvitv2_s_16x4", "k400", f"{_TV}/mvit_v2_s-ae3be167.pth", 80.757, 94.665
    ),
    "mvitv2_s_16x4.mm_k400": PublishedWeights(
        "mvitv2_s_16x4",
        "k400",
        _mm("mvit-small-p244_32xb16-16x4x1-200e_kinetics400-rgb", "20230201-23284ff3"),
        80.6,
        94.7,
    ),
    "mvitv2_s_16x4.mm_ssv2": PublishedWeights(
        "mvitv2_s_16x4",
        "ssv2",
        _mm("mvit-small-p244_k400-pre_16xb16-u16-100e_sthv2-rgb", "20230201-4065c1b9"),
        68.2,
        91.3,
    ),
    "mvitv2_s_16x4.mm_converted_k400": PublishedWeights(
        "mvitv2_s_16x4",
        "k400",
        f"{_MM}/converted/mvit-small-p244_16x4x1_kinetics400-rgb_20221021-9ebaaeed.pth",
        81.1,
        94.7,
    ),
    "mvitv2_b_32x3.mm_converted_k400": PublishedWeights(
        "mvitv2_b_32x3",
        "k400",
        f"{_MM}/converted/mvit-base-p244_32x3x1_kinetics400-rgb_20221021-f392cd2d.pth",
        82.6,
        95.8,
        _32X3,
    ),
    "mvitv2_l_40x3.mm_converted_k400": PublishedWeights(
        "mvitv2_l_40x3",
        "k400",
        f"{_MM}/converted/mvit-large-p244_40x3x1_kinetics400-rgb_20221021-11fe1f97.pth",
        85.4,
        96.2,
        _L_K400,
        (5, 3),
    ),
    "mvitv2_s_16x4.mm_converted_ssv2": PublishedWeights(
        "mvitv2_s_16x4",
        "ssv2",
        f"{_MM}/converted/mvit-small-p244_u16_sthv2-rgb_20221021-65ecae7d.pth",
        68.1,
        91.0,
    ),
    "mvitv2_b_32x3.mm_converted_ssv2": PublishedWeights(
        "mvitv2_b_32x3",
        "ssv2",
        f"{_MM}/converted/mvit-base-p244_u32_sthv2-rgb_20221021-d5de5da6.pth",
        70.8,
        92.7,
        _32X3,
    ),
    "mvitv2_l_40x3.mm_converted_ssv2": PublishedWeights(
        "mvitv2_l_40x3",
        "ssv2",
        f"{_MM}/converted/mvit-large-p244_u40_sthv2-rgb_20221021-61696e07.pth",
        73.2,
        94.0,
        _L_SSV2,
    ),
    "mvitv1_b_16x4.tv_k400": PublishedWeights(
        "mvitv1_b_16x4", "k400", f"{_TV}/mvit_v1_b-dbeb1030.pth", 78.477, 93.582
    ),
    "mvitv1_b_16x4.ptv_k400": PublishedWeights(
        "mvitv1_b_16x4",
        "k400",
        f"{_PTV}/MVIT_B_16x4.pyth",
        78.85,
        93.85,
        note="also for PySlowFast's, whose address is dead",
    ),
    "mvitv1_b_16x4.ptv_k400_32x3": PublishedWeights(
        "mvitv1_b_16x4", "k400", f"{_PTV}/MVIT_B_32x3_f294077834.pyth", 80.30, 94.69, _32X3
    ),
    "mvitv1_b_32x3.k400": PublishedWeights(
        "mvitv1_b_32x3", "k400", f"{_PYSLOWFAST}/mvit/k400.pyth", 80.4, 94.8, _32X3
    ),
    "mvitv1_b_32x3.k600": PublishedWeights(
        "mvitv1_b_32x3", "k600", f"{_PYSLOWFAST}/mvit/k600.pyth", 83.9, 96.5, _32X3
    ),
    "maskfeat_s_16x4.pt": PublishedWeights(
        "maskfeat_s_16x4",
        "masked",
        f"{_MASKFEAT}_S_MaskFeat_PT_epoch_00300.pyth",
        note="no head; top-1 82.2 on k400 after fine-tuning",
    ),
    "maskfeat_l_16x4.pt": PublishedWeights(
        "maskfeat_l_16x4",
        "masked",
        f"{_MASKFEAT}_L_MaskFeat_PT_epoch_00800.pyth",
        note="no head; top-1 84.3 on k400 after fine-tuning",
    ),
    "mvitv2_t_in1k.fb": PublishedWeights(
        "mvitv2_t_in1k", "in1k", f"{_MVIT}/MViTv2_T_in1k.pyth", 82.3
    ),
    "mvitv2_t_in1k.timm": PublishedWeights(
        "mvitv2_t_in1k", "in1k", "hf-hub:timm/mvitv2_tiny.fb_in1k", 82.3, licence="Apache-2.0"
    ),
    "mvitv2_t_in1k.mm": PublishedWeights(
        "mvitv2_t_in1k",
        "in1k",
        f"{_MMPRETRAIN}/mvitv2-tiny_3rdparty_in1k_20220722-db7beeef.pth",
        82.33,
    ),
    "mvitv2_s_in1k.fb": PublishedWeights(
        "mvitv2_s_in1k", "in1k", f"{_MVIT}/MViTv2_S_in1k.pyth", 83.6
    ),
    "mvitv2_s_in1k.timm": PublishedWeights(
        "mvitv2_s_in1k", "in1k", "hf-hub:timm/mvitv2_small.fb_in1k", 83.6, licence="Apache-2.0"
    ),
    "mvitv2_s_in1k.mm": PublishedWeights(
        "mvitv2_s_in1k",
        "in1k",
        f"{_MMPRETRAIN}/mvitv2-small_3rdparty_in1k_20220722-986bd741.pth",
        83.63,
    ),
    "mvitv2_b_in1k.fb": PublishedWeights(
        "mvitv2_b_in1k", "in1k", f"{_MVIT}/MViTv2_B_in1k.pyth", 84.4
    ),
    "mvitv2_b_in1k.timm": PublishedWeights(
        "mvitv2_b_in1k", "in1k", "hf-hub:timm/mvitv2_base.fb_in1k", 84.4, licence="Apache-2.0"
    ),
    "mvitv2_b_in1k.mm": PublishedWeights(
        "mvitv2_b_in1k",
        "in1k",
        f"{_MMPRETRAIN}/mvitv2-base_3rdparty_in1k_20220722-9c4f0a17.pth",
        84.34,
    ),
    "mvitv2_l_in1k.fb": PublishedWeights(
        "mvitv2_l_in1k", "in1k", f"{_MVIT}/MViTv2_L_in1k.pyth", 85.3
    ),
    "mvitv2_l_in1k.timm": PublishedWeights(
        "mvitv2_l_in1k", "in1k", "hf-hub:timm/mvitv2_large.fb_in1k", 85.3, licence="Apache-2.0"
    ),
    "mvitv2_l_in1k.mm": PublishedWeights(
        "mvitv2_l_in1k",
        "in1k",
        f"{_MMPRETRAIN}/mvitv2-large_3rdparty_in1k_20220722-2b57b983.pth",
        85.25,
    ),
    "mvitv2_b_in21k.fb": PublishedWeights(
        "mvitv2_b_in21k", "in21k", f"{_MVIT}/MViTv2_B_in21k.pyth"
    ),
    "mvitv2_b_in21k.timm": PublishedWeights(
        "mvitv2_b_in21k", "in21k", "hf-hub:timm/mvitv2_base_cls.fb_inw21k", licence="Apache-2.0"
    ),
    "mvitv2_l_in21k.fb": PublishedWeights(
        "mvitv2_l_in21k",
        "in21k",
        f"{_MVIT}/MViTv2_L_in21k.pyth",
        note="top-1 87.5 on in1k after fine-tuning",
    ),
    "mvitv2_l_in21k.timm": PublishedWeights(
        "mvitv2_l_in21k",
        "in21k",
        "hf-hub:timm/mvitv2_large_cls.fb_inw21k",
        licence="Apache-2.0",
        note="top-1 87.5 on in1k after fine-tuning",
    ),
    "mvitv2_h_in21k.fb": PublishedWeights(
        "mvitv2_h_in21k",
        "in21k",
        f"{_MVIT}/MViTv2_H_in21k.pyth",
        note="top-1 88.0 on in1k after fine-tuning",
    ),
    "mvitv2_h_in21k.timm": PublishedWeights(
        "mvitv2_h_in21k",
        "in21k",
        "hf-hub:timm/mvitv2_huge_cls.fb_inw21k",
        licence="Apache-2.0",
        note="top-1 88.0 on in1k after fine-tuning",
    ),
}

# Names of models in other libraries, and of PySlowFast's configs -> ours; all in lower case.
MODEL_ALIASES = {
    "mvit_v2_s": "mvitv2_s_16x4",
    "mvit_v1_b": "mvitv1_b_16x4",
    "mvit_base_16x4": "mvitv1_b_16x4",
    "mvitv1_b24_32x3": "mvitv1_b_32x3",
    "mvitv2_tiny": "mvitv2_t_in1k",
    "mvitv2_small": "mvitv2_s_in1k",
    "mvitv2_base": "mvitv2_b_in1k",
    "mvitv2_large": "mvitv2_l_in1k",
    "mvitv2_base_cls": "mvitv2_b_in21k",
    "mvitv2_large_cls": "mvitv2_l_in21k",
    "mvitv2_huge_cls": "mvitv2_h_in21k",
    "mvit_v2_s_16x4": "mvitv2_s_16x4",
    "mvit_b_16x4_conv": "mvitv1_b_16x4",
    "mvit_b_32x3_conv": "mvitv1_b_32x3",
    "mvitv2_l_40x3_test": "mvitv2_l_40x3",
    **{
        f"mvit_{size}_16x4_maskfeat_{stage}": f"maskfeat_{size}_16x4"
        for size in "sl"
        for stage in ("ft", "pt")
    },
}
# Names of models that are also those of one file of weights, and names of dead addresses -> copies.
_WEIGHTS_ALIASES = {
    "mvit_v2_s": "mvitv2_s_16x4.tv_k400",
    "mvit_v1_b": "mvitv1_b_16x4.tv_k400",
    "mvit_base_16x4": "mvitv1_b_16x4.ptv_k400",
    "mvit_base_32x3": "mvitv1_b_16x4.ptv_k400_32x3",
    "mvitv1_b_16x4.k400": "mvitv1_b_16x4.ptv_k400",
    "mvit_b_16x4_conv": "mvitv1_b_16x4.ptv_k400",
}
# Names in other model zoos of what is left out here -> the reason.
_LEFT_OUT = {
    r"memvit": "MeMViT pools before it projects, which no model here does",
    r"rev_?mvit": "reversible blocks are not supported",
    r"mvit_b_16(_conv|_f292487636\.pyth)?$|mvitv1_b_in1k|mvit_base_16$": "MViTv1 for images is not "
    f"among the models; fetch {_FB}/pytorchvideo/model_zoo/imagenet/MVIT_B_16_f292487636.pyth and "
    "name its config (--cfg)",
    r"maskfeat-pre": "its head reads the class token, that of MaskFeat the mean of the tokens",
    r"(cascade_)?mask_rcnn_mvitv2": "it is a detector",
}


def model_named(name: str) -> str:
    """Return our name of a model, whatever the case; a name that is not known as it is."""
    ours = MODEL_ALIASES.get(name.lower(), name.lower())
    return ours if weights_of(ours) else name


def weights_of(model: str) -> list[str]:
    """Return the names of the published weights of a model, those of its authors first."""
    return [name for name, weights in ZOO.items() if weights.model == model]


def name_in_zoo(name: str) -> str | None:
    """Return the key of ``ZOO`` for a name, also another library's or that of a file or address.

    Args:
        name: ``mvitv2_s_16x4.k400``; ``mvitv2_s_in1k``, whose weights need no tag; ``mvit_v2_s``;
            ``mvitv2_small.fb_in1k``; ``MViTv2_S_16x4_k400_f302660347.pyth``; or an address.
    """
    model, _, tag = name.lower().partition(".")
    names = (_WEIGHTS_ALIASES.get(name.lower()), f"{model_named(model)}.{tag or 'fb'}")
    known = next((candidate for candidate in names if candidate in ZOO), None)
    addresses = ((key, w.url, w.url.removeprefix(HUB), w.file_name) for key, w in ZOO.items())
    return next((key for key, *forms in addresses if name in forms), known)


def hint(name: str) -> str:
    """Return what to take in place of a name that is not in the zoo, or why it is left out."""
    reason = next((why for form, why in _LEFT_OUT.items() if re.search(form, name.lower())), None)
    if reason is not None:
        return f" It is left out: {reason}."
    choices = weights_of(model_named(name.partition(".")[0]))
    if choices:
        return f" Weights of this model: {', '.join(choices)}."
    guess = nearest(name, [*ZOO, *MODEL_ALIASES])
    return f" Did you mean {guess}?" if guess else ""


def published_file(path: str | Path) -> PublishedWeights | None:
    """Return the published weights that a file has the name of; None for ambiguous names."""
    name = Path(path).name
    named = [weights for weights in ZOO.values() if weights.file_name == name]
    is_telling = len(name) > len("k400.pyth")  # anything may be called so
    return named[0] if named and is_telling else None


def assumed(model: str, num_classes: int | None) -> PublishedWeights | None:
    """Return the first published weights of a model with as many classes."""
    return next((w for w in ZOO.values() if (w.model, w.num_classes) == (model, num_classes)), None)


@functools.cache
def class_names(data: str) -> tuple[str, ...] | None:
    """Return the names of the classes of a data set, in the order of the published weights.

    Args:
        data: k400, k600, k700, ssv2 or in1k; others have no published order.
    """
    file = files("slowfast_mvit.weights") / "class_names" / f"{data}.txt"
    return tuple(file.read_text(encoding="utf-8").splitlines()) if file.is_file() else None
