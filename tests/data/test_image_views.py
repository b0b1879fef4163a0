"""Views of images: the pixels that torchvision's and timm's transforms make with Pillow."""

import numpy as np
import pytest
import timm.data
import torch
from crops import eval_views
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from slowfast_mvit.builders import build_objective
from slowfast_mvit.builders.data import build_train_loader, build_val_loader, view_plan
from slowfast_mvit.config import load_config
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.views.geometry import Cut
from slowfast_mvit.data.views.randaugment import Step
from slowfast_mvit.data.views.train_views import METHODS, TrainTransform, ViewDraws
from slowfast_mvit.errors import ConfigError
from slowfast_mvit.structures import ViewPlan

SIZES = [(375, 500), (300, 201), (97, 64), (56, 56), (31, 90)]


def picture(height: int, width: int) -> np.ndarray:
    """Noise, blurred a little, so that neither antialiasing nor a kernel's shape is hidden."""
    noise = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((width + 7, height + 5), Image.Resampling.BILINEAR)
    return np.array(large.crop((0, 0, width, height)))


def as_pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, S, S)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_centre_crop_is_that_of_torchvision(height, width):
    pixels = picture(height, width)
    plan = ViewPlan(num_clips=1, num_crops=1, scale_px=64, crop_px=56, resizing="image")

    view = eval_views(torch.from_numpy(pixels)[None], plan)[0, :, 0]

    bicubic = v2.InterpolationMode.BICUBIC
    theirs = v2.Compose([v2.Resize(64, interpolation=bicubic), v2.CenterCrop(56)])
    assert torch.equal(view, as_pixels(theirs(Image.fromarray(pixels))))


@pytest.mark.parametrize("name", ["mvitv2_small", "mvitv2_large_cls"])
def test_a_centre_crop_is_that_of_timms_models(name):
    pixels = picture(375, 500)
    crop_share = 0.9  # of timm's configurations of MViTv2; PySlowFast tests at 0.875
    plan = ViewPlan(1, 1, scale_px=int(224 / crop_share), crop_px=224, resizing="image")
    theirs = timm.data.create_transform(
        (3, 224, 224), interpolation="bicubic", crop_pct=crop_share, mean=(0.0,) * 3, std=(1.0,) * 3
    )

    view = eval_views(torch.from_numpy(pixels)[None], plan)[0, :, 0]

    assert timm.get_pretrained_cfg(name).crop_pct == crop_share
    assert torch.equal(view, (theirs(Image.fromarray(pixels)) * 255).round().to(torch.uint8))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_full_crop_is_the_whole_image_squeezed_to_a_square(height, width):
    pixels = picture(height, width)
    plan = ViewPlan(num_clips=1, num_crops=1, scale_px=56, crop_px=56, resizing="whole image")

    view = eval_views(torch.from_numpy(pixels)[None], plan)[0, :, 0]

    theirs = Image.fromarray(pixels).resize((56, 56), Image.Resampling.BICUBIC)
    assert torch.equal(view, as_pixels(theirs))


@pytest.mark.parametrize("method", ["exact", "crop_first"])
@pytest.mark.parametrize("seed", range(4))
def test_a_training_crop_is_cut_out_resized_and_mirrored_as_torchvision_does(method, seed):
    pixels = picture(97, 120)
    transform = TrainTransform(
        crop_px=56,
        scales_px=(56, 56),
        area_range=(0.08, 1.0),
        aspect_range=(3 / 4, 4 / 3),
        method=method,
        resizing="image",
    )
    draws = transform.draw((97, 120), np.random.default_rng(seed))

    view = transform(torch.from_numpy(pixels)[None], np.random.default_rng(seed))[:, 0]

    bicubic = v2.InterpolationMode.BICUBIC
    theirs = F.resized_crop(Image.fromarray(pixels), *draws.cut.box, [56, 56], bicubic)
    assert torch.equal(view, as_pixels(F.hflip(theirs) if draws.flip else theirs))


@pytest.mark.parametrize("method", ["exact", "crop_first"])
def test_the_mean_colour_comes_in_where_a_picture_is_shifted(method):
    fill = (124, 116, 104)
    pixels = torch.from_numpy(picture(40, 40))[None].expand(2, -1, -1, -1).numpy()
    draws = ViewDraws(
        steps=(Step("TranslateXRel", 0.25),),  # what is at x comes from x + 10
        cut=Cut((40, 40), (0, 0, 40, 40), "image"),
        flip=False,
        fill=fill,
    )
    view = np.empty((2, 40, 40, 3), dtype=np.uint8)

    METHODS[method](pixels, draws, "bicubic", view)

    theirs = Image.fromarray(pixels[0]).transform(
        (40, 40),
        Image.Transform.AFFINE,
        (1, 0, 10, 0, 1, 0),
        Image.Resampling.BICUBIC,
        fillcolor=fill,
    )
    assert (view[:, :, 30:] == fill).all()
    assert np.array_equal(view[0], np.array(theirs)) and np.array_equal(view[1], view[0])


def test_pixels_of_images_cannot_come_from_the_bilinear_method():
    with pytest.raises(ConfigError, match=r"AUG.AA_METHOD 'fused' .*'crop_first'"):
        TrainTransform(
            crop_px=32,
            scales_px=(32, 32),
            area_range=(0.5, 1.0),
            aspect_range=(1.0, 1.0),
            method="fused",
            resizing="image",
        )


# What a config asks for


@pytest.mark.parametrize(
    ("words", "scale_px", "resizing"),
    [
        ([], 256, "image"),  # 224 / 0.875
        (["DATA.TEST_CROP_SIZE=384"], 438, "image"),
        (["DATA.IN_VAL_CROP_RATIO=1.0"], 224, "image"),  # the short side, whole
        (["DATA.IN_VAL_CROP_RATIO=0.0"], 224, "whole image"),
        (["TEST.NUM_SPATIAL_CROPS=3"], 224, "image"),
    ],
)
def test_the_crop_ratio_says_how_test_images_are_scaled(words, scale_px, resizing):
    config = load_config("ImageNet/MVITv2_S.yaml", words)

    plan = view_plan(config, num_clips=1, num_crops=config.test.num_spatial_crops)

    assert (plan.scale_px, plan.resizing) == (scale_px, resizing)


@pytest.fixture
def one_image(tmp_path) -> VideoList:
    Image.fromarray(picture(300, 401)).save(tmp_path / "a.png")
    return VideoList(["a.png"], [0], folder=tmp_path)


WORDS = ["DATA_LOADER.NUM_WORKERS=0", "NUM_GPUS=0", "TRAIN.BATCH_SIZE=1", "TEST.BATCH_SIZE=1"]


def test_validation_looks_at_images_as_the_test_does(one_image):
    config = load_config("ImageNet/MVITv2_S.yaml", WORDS)
    plan = view_plan(config, num_clips=1, num_crops=1)

    (batch,) = build_val_loader(config, one_image).epoch(0)

    expected = eval_views(torch.from_numpy(picture(300, 401))[None], plan)
    assert torch.equal(batch.pixels[0], expected)


def test_training_does_as_timm_where_the_file_says_nothing_else(one_image):
    config = load_config("ImageNet/MVITv2_S.yaml", WORDS)

    transform = build_train_loader(config, one_image).dataset.transform

    assert transform.area_range == (0.08, 1.0) and transform.aspect_range == (3 / 4, 4 / 3)
    assert transform.method == "crop_first" and transform.resizing == "image"
    assert transform.randaugment == "rand-m9-n6-mstd0.5-inc1"
    assert transform.fill == (124, 116, 104)  # 255 times the mean of ImageNet


def test_a_batch_of_the_recipe_is_augmented_mixed_and_normalised(tmp_path):
    for name in "ab":
        Image.fromarray(picture(64, 80 + len(name))).save(tmp_path / f"{name}.png")
    images = VideoList(["a.png", "b.png"], [0, 1], folder=tmp_path)
    config = load_config("ImageNet/MVITv2_S.yaml", [*WORDS, "TRAIN.BATCH_SIZE=2"])

    (batch,) = build_train_loader(config, images).epoch(0)
    pixels, targets = build_objective(config).prepare(batch, np.random.default_rng(0))

    assert batch.pixels.shape == (2, 1, 3, 1, 224, 224)  # B, V, colours, T, S, S
    assert pixels.shape == (2, 3, 1, 224, 224) and targets.shape == (2, 1000)
    # Of each row 0.1 is spread over all classes, the rest shared by the two that are mixed.
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(targets[:, :2].sum(dim=1), torch.full((2,), 0.9 + 0.1 * 2 / 1000))


def test_a_file_may_say_something_else(one_image):
    config = load_config(
        "ImageNet/MVITv2_S.yaml",
        [
            *WORDS,
            "AUG.AA_METHOD=exact",
            "DATA.TRAIN_JITTER_SCALES_RELATIVE=[0.5, 1.0]",
            "DATA.TRAIN_JITTER_ASPECT_RELATIVE=[0.9, 1.1]",
            "DATA.TRAIN_CROP_SIZE=384",
        ],
    )

    transform = build_train_loader(config, one_image).dataset.transform

    assert (transform.method, transform.area_range) == ("exact", (0.5, 1.0))
    assert (transform.crop_px, transform.aspect_range) == (384, (0.9, 1.1))
