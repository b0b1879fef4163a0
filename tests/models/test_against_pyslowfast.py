"""Small models and two full ones against what PySlowFast computed with the same weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference_models import SMALL_MODELS, clip, fill, from_keys

CASES = SMALL_MODELS["cases"]
# attention -> relative tolerance, and absolute tolerance of gradient norms
TOLERANCES = {"plain": (1e-9, 1e-12), "folded": (1e-6, 1e-9)}


@pytest.mark.parametrize("attention", TOLERANCES)
@pytest.mark.parametrize("case", CASES)
def test_logits_loss_and_gradients_are_those_of_pyslowfast(case, attention):
    expected = CASES[case]
    keys = {**SMALL_MODELS["base"], **expected["overrides"]}
    model = fill(from_keys(keys, attention=attention).double())
    side = keys["DATA.TRAIN_CROP_SIZE"]
    is_image = keys.get("MVIT.PATCH_2D", False)
    pixels = clip(2, 3, *(() if is_image else (keys["DATA.NUM_FRAMES"],)), side, side)

    logits = model(pixels)
    loss = F.cross_entropy(logits, torch.tensor([1, 2]))
    loss.backward()

    rtol, atol = TOLERANCES[attention]
    torch.testing.assert_close(logits.tolist(), expected["logits"], rtol=rtol, atol=0)
    assert loss.item() == pytest.approx(expected["ce_loss_labels_1_2"], rel=rtol)
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    assert norms == pytest.approx(expected["grad_norms"], rel=rtol, abs=atol)


@pytest.mark.parametrize("case", CASES)
def test_state_dicts_have_the_names_shapes_and_order_of_pyslowfast(case):
    expected = CASES[case]
    keys = {**SMALL_MODELS["base"], **expected["overrides"]}

    model = from_keys(keys, attention="folded")

    shapes = [(name, list(value.shape)) for name, value in model.state_dict().items()]
    assert shapes == list(expected["state_dict_shapes"].items())
    assert sum(p.numel() for p in model.parameters()) == expected["n_params"]
