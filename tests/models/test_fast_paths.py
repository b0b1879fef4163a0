"""Every fast path of the default model at once, against the plain model in float64."""

import pytest
import torch
import torch.nn.functional as F
from reference_models import SMALL_MODELS, clip, fill, from_keys

CASES = SMALL_MODELS["cases"]


def answers(case, attention, *, double=False, autocast=False, seed=None):
    """Logits and gradients of one of the small models, with its weights or random ones."""
    keys = {**SMALL_MODELS["base"], **CASES[case]["overrides"]}
    torch.manual_seed(seed or 0)
    model = from_keys(keys, attention=attention)
    model = fill(model) if seed is None else model
    side = keys["DATA.TRAIN_CROP_SIZE"]
    is_image = keys.get("MVIT.PATCH_2D", False)
    pixels = clip(2, 3, *(() if is_image else (keys["DATA.NUM_FRAMES"],)), side, side).float()
    if double:
        model, pixels = model.double(), pixels.double()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(pixels)
        F.cross_entropy(logits, torch.tensor([1, 2])).backward()
    gradients = {name: p.grad.double() for name, p in model.named_parameters()}
    return logits.detach().double(), gradients


def errors(actual, expected):
    """Root mean square distance of the logits, and of all gradients together."""
    (logits, gradients), (expected_logits, expected_gradients) = actual, expected
    squares = [(gradients[name] - one).square().sum() for name, one in expected_gradients.items()]
    return (logits - expected_logits).square().mean().sqrt(), torch.stack(squares).sum().sqrt()


@pytest.mark.parametrize("case", CASES)
def test_float32_is_as_near_to_float64_as_the_plain_model(case):
    exact = answers(case, "plain", double=True)

    plain = errors(answers(case, "plain"), exact)
    fast = errors(answers(case, "fast"), exact)

    for one, other in zip(fast, plain, strict=True):
        assert one <= 2 * other + 1e-7


def test_bfloat16_is_as_near_to_float64_as_the_plain_model():
    """Over models with random weights: a single one may round luckily."""
    ratios = []
    for seed in range(6):
        exact = answers("v2_base", "plain", double=True, seed=seed)
        plain = errors(answers("v2_base", "plain", autocast=True, seed=seed), exact)
        fast = errors(answers("v2_base", "fast", autocast=True, seed=seed), exact)
        ratios.append([one / other for one, other in zip(fast, plain, strict=True)])

    of_logits, of_gradients = torch.tensor(ratios).log().mean(dim=0).exp()
    assert of_logits <= 1.1
    assert of_gradients <= 1.1
