"""From an image file to probabilities: those of timm's model behind timm's own transform."""

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image

from slowfast_mvit.builders import build_model
from slowfast_mvit.config import load_config
from slowfast_mvit.jobs.predict import predict
from slowfast_mvit.weights import load_weights

SIDE, SHARE = 64, 0.9  # of the crop, and what it is of the short side: timm's for its weights
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
@pytest.mark.parametrize("size", [(150, 201), (90, 64)])  # scaled down and up
def test_an_image_has_the_probabilities_that_timm_gives_it(tmp_path, size):
    torch.manual_seed(0)
    theirs = timm.create_model("mvitv2_tiny", img_size=(SIDE, SIDE), num_classes=10).eval()
    transform = timm.data.create_transform(
        (3, SIDE, SIDE), interpolation="bicubic", crop_pct=SHARE, mean=MEAN, std=STD
    )
    sizes = [f"DATA.{name}_CROP_SIZE={SIDE}" for name in ("TRAIN", "TEST")]
    words = [*sizes, f"DATA.IN_VAL_CROP_RATIO={SHARE}", "MODEL.NUM_CLASSES=10"]
    ours = build_model(load_config("ImageNet/MVITv2_T.yaml", words))
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")

    load_weights(ours, theirs.state_dict(), head="keep")
    predicted = predict(ours, tmp_path / "image.png", top_k=10, num_clips=1)

    with Image.open(tmp_path / "image.png") as image:
        expected = theirs(transform(image).unsqueeze(0)).softmax(dim=1)[0]
    actual = torch.tensor([one.prob for one in sorted(predicted, key=lambda one: one.label)])
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)
    assert expected.std() > 1e-3  # the classes differ, so equality says something
