"""A config file is read strictly, and one error reports all problems with their locations."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from slowfast_mvit.config import load_config, load_config_text
from slowfast_mvit.errors import ConfigError


def write(folder: Path, text: str, name: str = "my_run.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def complaint(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_a_key_is_an_attribute_in_lower_case(tmp_path):
    path = write(tmp_path, "NUM_GPUS: 2\nDATA:\n  NUM_FRAMES: 16\n")

    config = load_config(path)

    assert config.num_gpus == 2
    assert config.data.num_frames == 16
    assert config.is_set("DATA.NUM_FRAMES")
    assert not config.is_set("DATA.SAMPLING_RATE")


def test_all_problems_are_reported_in_one_error(tmp_path):
    path = write(
        tmp_path,
        "DATA:\n  NUM_FRAMES: 16\n  SAMPLING_RATE: four\nMVIT:\n  DEPHT: 16\n"
        "SOLVER:\n  LR_POLICY: cosin\nMODEL:\n  ARCH: slowfast\n  NUM_CLASSES: 0\n",
    )

    assert complaint(path) == (
        f"{path}: 5 problems\n"
        "  line 3    DATA.SAMPLING_RATE: expected a whole number, got 'four'\n"
        "  line 5    MVIT.DEPHT: unknown key. Did you mean MVIT.DEPTH?\n"
        "  line 7    SOLVER.LR_POLICY: 'cosin' is not a choice. "
        "Choose from: cosine, steps_with_relative_lrs\n"
        "  line 9    MODEL.ARCH: 'slowfast' is outside this project's scope, which is MViT for "
        "recognition. Choose from: mvit; for the rest there is PySlowFast\n"
        "  line 10   MODEL.NUM_CLASSES: must be at least 1, got 0"
    )


def test_a_problem_on_the_command_line_says_so(tmp_path):
    path = write(tmp_path, "NUM_GPUS: two\n")

    assert complaint(path, "DATA.NUM_FRAMES", "x", "TRAIN.ENABLE") == (
        f"{path}: 1 problem\n"
        "  line 1    NUM_GPUS: expected a whole number, got 'two'\n"
        "command line: 2 problems\n"
        "  TRAIN.ENABLE: has no value. Write KEY VALUE or KEY=VALUE\n"
        "  DATA.NUM_FRAMES: expected a whole number, got 'x'"
    )


def test_a_valid_config_logs_nothing(tmp_path, caplog):
    path = write(tmp_path, "DATA:\n  NUM_FRAMES: 16\n")

    with caplog.at_level(logging.INFO):
        load_config(path)

    assert caplog.records == []


@pytest.mark.parametrize(
    "words",
    [
        ["DATA.NUM_FRAMES", "32", "NUM_GPUS", "4"],
        ["DATA.NUM_FRAMES=32", "NUM_GPUS=4"],
        ["DATA.NUM_FRAMES=32", "NUM_GPUS", "4"],
        ["DATA.NUM_FRAMES", "8", "DATA.NUM_FRAMES", "32", "NUM_GPUS", "4"],
    ],
    ids=["pairs", "assignments", "both", "the last of two"],
)
def test_overrides_replace_what_the_file_says(tmp_path, words):
    path = write(tmp_path, "DATA:\n  NUM_FRAMES: 16\n  SAMPLING_RATE: 4\n")

    config = load_config(path, words)

    assert (config.data.num_frames, config.data.sampling_rate, config.num_gpus) == (32, 4, 4)
    assert config.is_set("NUM_GPUS")


def test_an_override_may_hold_an_equals_sign_and_spaces():
    config = load_config(None, ["DATA.PATH_PREFIX=/data/a=b c", "DATA.PATH_LABEL_SEPARATOR", ","])

    assert config.data.path_prefix == "/data/a=b c"
    assert config.data.path_label_separator == ","


def test_a_base_gives_what_the_file_does_not(tmp_path):
    write(tmp_path, "DATA:\n  NUM_FRAMES: 8\n  SAMPLING_RATE: 2\n", "shared/recipe.yaml")
    write(tmp_path, "_BASE_: recipe.yaml\nNUM_GPUS: 4\n", "shared/middle.yaml")
    path = write(tmp_path, "DATA:\n  NUM_FRAMES: 16\n_BASE_: shared/middle.yaml\n")

    config = load_config(path)

    assert (config.data.num_frames, config.data.sampling_rate, config.num_gpus) == (16, 2, 4)


def test_a_problem_in_a_base_names_the_base(tmp_path):
    base = write(tmp_path, "DATA:\n  NUM_FRAMES: many\n", "recipe.yaml")
    path = write(tmp_path, "_BASE_: recipe.yaml\nNUM_GPUS: -1\n")

    message = complaint(path)

    assert f"{base}: 1 problem\n  line 2    DATA.NUM_FRAMES: expected" in message
    assert f"{path}: 1 problem\n  line 2    NUM_GPUS: must be at least 0, got -1" in message


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("my_run.yaml", "leads back to itself"),
        ("absent.yaml", "there is no file"),
        ("/etc/hosts.yaml", "must be relative"),
        ("~/run.yaml", "must be relative"),
        ("https://host/run.yaml", "expected the name of a .yaml file"),
        ("secrets.txt", "expected the name of a .yaml file"),
        ("7", "expected the name of a .yaml file"),
    ],
)
def test_a_base_is_a_yaml_file_next_to_the_file_that_names_it(tmp_path, base, words):
    path = write(tmp_path, f"NUM_GPUS: 1\n_BASE_: {base}\n")

    assert f"line 2    _BASE_: {words}" in complaint(path).replace(f"{base!r} ", "")


def test_a_long_chain_of_bases_is_refused(tmp_path):
    for number in range(12):
        write(tmp_path, f"_BASE_: {number + 1}.yaml\n", f"{number}.yaml")

    assert "more than 8 files deep" in complaint(tmp_path / "0.yaml")


def test_a_duplicate_key_gives_a_warning_and_the_last_counts(tmp_path, caplog):
    path = write(
        tmp_path,
        "MVIT:\n  POOL_KV_STRIDE_ADAPTIVE: [2, 4, 4]\n  DEPTH: 16\n"
        "  POOL_KV_STRIDE_ADAPTIVE: [1, 8, 8]\n  DEPTH: 16\n",
    )

    config = load_config(path)

    assert config.mvit.pool_kv_stride_adaptive == (1, 8, 8)
    assert caplog.messages == [
        f"{path} line 4: MVIT.POOL_KV_STRIDE_ADAPTIVE is set twice, on lines 2 and 4. "
        "The last one counts"
    ]


def test_the_last_of_duplicate_sections_counts_as_in_yaml(tmp_path, caplog):
    path = write(tmp_path, "DATA:\n  NUM_FRAMES: 16\nDATA:\n  SAMPLING_RATE: 4\n")

    config = load_config(path)

    assert (config.data.num_frames, config.data.sampling_rate) == (8, 4)
    assert "DATA is set twice, on lines 1 and 3" in caplog.text


def test_a_file_that_is_not_yaml_gets_one_error_with_its_line(tmp_path):
    # The released ImageNet/MVITv2_B.yaml has this indentation.
    path = write(tmp_path, "MVIT:\n  QKV_BIAS: True\nDROPPATH_RATE: 0.3\n  DEPTH: 24\n")

    assert complaint(path) == (
        f"{path}: 1 problem\n"
        "  line 4    not YAML: mapping values are not allowed here. Check the indentation, "
        "brackets and quotes of this line and of the one before"
    )


def billion_laughs() -> str:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    for number in range(1, 9):
        alias = f"*a{number - 1}"
        lines.append(f"a{number}: &a{number} [{', '.join([alias] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("OUTPUT_DIR: !!python/object/apply:os.system ['true']\n", "not a plain value"),
        (billion_laughs(), "with its aliases expanded"),
        ("DATA: &a\n  MEAN: [*a, *a]\n", "with its aliases expanded"),
        ("[" * 3000, "cannot be read as YAML"),
        ("- DATA\n- TEST\n", "not a config"),
        ("DATA: {NUM_FRAMES: 4}\n---\nDATA: {NUM_FRAMES: 4}\n", "found another document"),
        ("# " + "x" * (1 << 20), "not a config"),
        ("DATA: \udcff\n", "cannot be read as YAML"),
        ("DATA: 5\n", "DATA: is a section; expected keys below it"),
        ("DATA:\n  NUM_FRAMES:\n    T: 5\n", "expected a whole number, got {'T': 5}"),
        ("TRAIN:\n  <<: 5\n", "not YAML"),
    ],
    ids=[
        "code",
        "aliases of aliases",
        "a value that holds itself",
        "very deep",
        "a list",
        "two documents",
        "very long",
        "not text",
        "a number for a section",
        "a section for a number",
        "a merge with a number",
    ],
)
def test_a_hostile_or_broken_file_gives_a_message(tmp_path, text, words):
    path = tmp_path / "my_run.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))

    assert words in complaint(path)


def test_merge_keys_are_written_out(tmp_path):
    path = write(
        tmp_path, "TEST: &phase\n  BATCH_SIZE: 4\nTRAIN:\n  <<: *phase\n  EVAL_PERIOD: 2\n"
    )

    config = load_config(path)

    assert (config.train.batch_size, config.train.eval_period) == (4, 2)


def test_an_empty_file_and_empty_sections_are_the_defaults(tmp_path):
    assert load_config(write(tmp_path, "")) == load_config(None)
    assert load_config(write(tmp_path, "DATA:\nTRAIN:\n")) == load_config(None)


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("DATA:\n  NUM_FRAME: 8\n", "DATA.NUM_FRAMES"),
        ("data:\n  num_frames: 8\n", "DATA"),
        ("NUM_FRAMES: 8\n", "DATA.NUM_FRAMES"),
        ("MODEL:\n  DROPPATH_RATE: 0.1\n", "MVIT.DROPPATH_RATE"),
        ("DETECTION:\n  ENABEL: True\n", "DETECTION.ENABLE"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_one(tmp_path, text, guess):
    assert f"unknown key. Did you mean {guess}?" in complaint(write(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "DATA: {NUM_FRAMES: !!int ''}",
        "SOLVER: {BASE_LR: !!float ''}",
        "TRAIN: {ENABLE: !!bool foo}",
        "OUTPUT_DIR: !!timestamp foo",
        "OUTPUT_DIR: 0x" + "f" * 6000,
        "MVIT: {PATCH_KERNEL: '[0x" + "f" * 6000 + ", 7, 7]'}",
        "TASK: 0x" + "f" * 6000,
        "RNG_SEED: 1" + ":59" * 9000,
        "? [a, b]\n: c",
        "DATA: {? {a: b} : c}",
    ],
    ids=lambda text: text[:28],
)
def test_values_that_yaml_cannot_make_are_problems(text):
    with pytest.raises(ConfigError, match="w: 1 problem\n  line "):
        load_config_text(text, source="w")
