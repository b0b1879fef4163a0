"""The video model to fine-tune from a file of weights: by its config, its shapes, or a size."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

from slowfast_mvit import builders
from slowfast_mvit.config import Config, load_config, load_config_text
from slowfast_mvit.errors import UserError, WeightsError
from slowfast_mvit.jobs.weights import state_on_meta
from slowfast_mvit.weights.architecture import exact_state, matching_variant
from slowfast_mvit.weights.files import WeightsFile, read_weights
from slowfast_mvit.weights.names import state_in_our_names

logger = logging.getLogger(__name__)

MODEL_OF_SIZE = {"S": "mvitv2_s_16x4", "B": "mvitv2_b_32x3", "L": "mvitv2_l_40x3"}
# The video model that takes the weights of a published one, by its name in models/variants.py.
CONFIG_OF_MODEL = {
    "mvitv2_s_16x4": "Kinetics/MVITv2_S_16x4.yaml",
    "mvitv2_b_32x3": "Kinetics/MVITv2_B_32x3.yaml",
    "mvitv2_l_40x3": "Kinetics/MVITv2_L_40x3.yaml",
    "maskfeat_s_16x4": "Kinetics/MVIT_S_16x4_MaskFeat_FT.yaml",
    "maskfeat_l_16x4": "Kinetics/MVIT_L_16x4_MaskFeat_FT.yaml",
    "mvitv1_b_16x4": "Kinetics/MVIT_B_16x4_CONV.yaml",
    "mvitv1_b_32x3": "Kinetics/MVIT_B_32x3_CONV.yaml",
    "mvitv2_s_in1k": "Kinetics/MVITv2_S_16x4_from_IN1K.yaml",
    "mvitv2_b_in1k": "Kinetics/MVITv2_B_32x3_from_IN1K.yaml",
    "mvitv2_b_in21k": "Kinetics/MVITv2_B_32x3_from_IN21K.yaml",
    "mvitv2_l_in21k": "Kinetics/MVITv2_L_16x4_from_IN21K.yaml",
}


def model_of(weights: str, size: str | None) -> Config:
    """Return a config that describes the video model to train.

    Args:
        weights: the file; of an image model too.
        size: a key of ``MODEL_OF_SIZE``; None to identify the model from the file.

    Raises:
        WeightsError: the file cannot be read, or its model cannot be identified.
    """
    if not weights:
        raise WeightsError(
            "--weights is missing: fine-tuning needs pretrained weights, name the file. To train "
            "from scratch, use slowfast-mvit train"
        )
    file = read_weights(weights)
    if size:
        return load_config(CONFIG_OF_MODEL[MODEL_OF_SIZE[size]])
    state, _, _ = state_in_our_names(file)
    config = _config_inside(file, state) if file.cfg_text else None
    if config is not None and not config.mvit.patch_2d:
        return config
    # Pre-training by masks leaves weights without the last normalisation.
    name = matching_variant(state) or matching_variant(state, ignoring=("norm.",))
    if name not in CONFIG_OF_MODEL:
        if name == "mvitv2_l_in1k":
            raise WeightsError(
                f"{weights}: by its shapes it is {name}, whose channels grow in the MLP; those of "
                "the video models grow in the attention, so none can start from it. Take the L of "
                "ImageNet-21K (mvitv2_l_in21k, timm's mvitv2_large_cls), or another size"
            )
        model = "of no published model" if name is None else f"{name}, which is in no video model"
        raise WeightsError(
            f"{weights}: contains no config of a video model, and by its shapes it is {model}. "
            f"Choose the size of the model to train: --variant {' or '.join(MODEL_OF_SIZE)}"
        )
    config_file = CONFIG_OF_MODEL[name]
    logger.info("%s: %s by its shapes, so the model is that of %s", weights, name, config_file)
    return load_config(config_file)


def _config_inside(file: WeightsFile, state: Mapping[str, Tensor]) -> Config | None:
    """Return the config in a checkpoint; None, with a warning, where it does not fit.

    Pre-training and other code bases write configs of other models.
    """
    try:
        config = load_config_text(file.cfg_text or "", source=f"the config in {file.path}")
        exact_state(state, state_on_meta(builders.model_arguments(config)), file.path)
    except UserError as error:
        logger.warning("the config in the weights is not used, their shapes are: %s", error)
        return None
    if config.train.dataset.lower() == "ssv2":
        logger.warning(
            "%s: trained on frames spread over whole videos; here a clip is %d frames at a step of "
            "%d. Set DATA.SAMPLING_RATE so that it spans the actions in your videos",
            file.path,
            config.data.num_frames,
            config.data.sampling_rate,
        )
    return config
