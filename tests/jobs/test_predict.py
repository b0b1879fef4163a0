"""One video in, named probabilities out."""

import pytest
import torch
from crops import eval_views

import slowfast_mvit as sm
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.data.views.pixels import normalise
from slowfast_mvit.data.views.sampling import eval_indices
from slowfast_mvit.errors import ConfigError, DecodeError
from slowfast_mvit.structures import ClipSpec, ViewPlan


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return sm.build_model(sm.load_config(tiny_config))


def test_probabilities_come_best_first_and_sum_to_one(model, motion_data):
    video = next((motion_data / "val").glob("*.mp4"))

    predictions = sm.predict(model, video, top_k=8)

    probs = [prediction.prob for prediction in predictions]
    assert probs == sorted(probs, reverse=True)
    assert sum(probs) == pytest.approx(1, abs=1e-5)
    assert sorted(prediction.label for prediction in predictions) == list(range(8))


def test_names_are_used_where_the_model_knows_them(model, motion_data):
    video = next((motion_data / "val").glob("*.mp4"))

    model.input_spec["class_names"] = [f"move {index}" for index in range(8)]
    named = sm.predict(model, video, top_k=1)[0]
    model.input_spec["class_names"] = None
    unnamed = sm.predict(model, video, top_k=1)[0]

    assert named.name == f"move {named.label}"
    assert unnamed.name == f"class {unnamed.label}"


def test_the_model_stays_in_the_mode_it_was_in(model, motion_data):
    video = next((motion_data / "val").glob("*.mp4"))

    sm.predict(model.train(), video)

    assert model.training


def test_impossible_arguments_are_errors(model, tmp_path):
    with pytest.raises(DecodeError, match="nothing"):
        sm.predict(model, tmp_path / "nothing.mp4")
    with pytest.raises(ConfigError, match="top_k"):
        sm.predict(model, tmp_path / "nothing.mp4", top_k=0)
    model.input_spec = None
    with pytest.raises(ConfigError, match="input_spec"):
        sm.predict(model, tmp_path / "nothing.mp4")


@pytest.mark.parametrize(("num_clips", "num_crops"), [(1, 1), (5, 1), (3, 3)])
def test_several_clips_are_averaged_view_by_view(model, motion_data, num_clips, num_crops):
    video = next((motion_data / "val").glob("*.mp4"))
    spec = model.input_spec
    plan = ViewPlan(num_clips, num_crops, scale_px=spec["scale_px"], crop_px=spec["crop_px"])
    clip = ClipSpec(
        spec["num_frames"], spec["sampling_rate"], spec["target_fps"], offset_sampling=True
    )

    predictions = sm.predict(model, video, top_k=8, num_clips=num_clips, num_crops=num_crops)

    with open_reader(video) as reader:
        clips = eval_indices(clip, reader.num_frames, reader.fps, num_clips)
        views = torch.cat([eval_views(reader.frames(indices), plan) for indices in clips])
    with torch.inference_mode():
        logits = torch.cat(
            [model.eval()(normalise(v[None], spec["mean"], spec["std"])) for v in views]
        )
    expected = logits.softmax(dim=1).mean(dim=0)
    for prediction in predictions:
        assert prediction.prob == pytest.approx(expected[prediction.label].item(), abs=1e-6)


def test_shared_frames_of_several_clips_are_computed_once(model, motion_data):
    video = next((motion_data / "val").glob("*.mp4"))
    model.input_spec["policy"] = "segments"  # whose clips are all the same
    num_views = []
    model.register_forward_hook(lambda _, inputs, __: num_views.append(len(inputs[0])))

    once = sm.predict(model, video, num_clips=1)
    five_times = sm.predict(model, video, num_clips=5)

    assert num_views == [1, 1]
    assert [p.label for p in five_times] == [p.label for p in once]


@pytest.mark.parametrize("name", ["meta", "nonsense", "cuda:77"])
def test_a_device_without_values_is_an_error(name):
    with pytest.raises(ConfigError, match=f"--device {name}: not a device of this machine"):
        sm.load("a.pyth", device=name)


def test_a_checkpoint_without_segment_clips_still_predicts(model, motion_data):
    video = next((motion_data / "val").glob("*.mp4"))
    now = sm.predict(model, video)

    del model.input_spec["segment_clips"]

    assert sm.predict(model, video) == now
