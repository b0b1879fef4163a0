"""A config from a file imports nothing, starts nothing and fetches nothing, in any command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slowfast_mvit.config import load_config, load_config_text, trusted_configs
from slowfast_mvit.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
# A module with an effect of the standard library, a function that runs programs, and a module in
# the working folder.
CODE = ("antigravity:geohash", "os:system", "evil:run")
CODE_KEYS = {
    "DATA.DECODING_BACKEND": "{}",
    "TRAIN.DATASET": "{}",
    "TEST.DATASET": "{}",
    "PATH_HANDLERS": "[{!r}]",
}
ADDRESS_KEYS = (
    "TRAIN.CHECKPOINT_FILE_PATH",
    "TEST.CHECKPOINT_FILE_PATH",
    "DATA.PATH_TO_DATA_DIR",
    "DATA.CLASS_NAMES_PATH",
    "OUTPUT_DIR",
)


def yaml_of(key, value):
    section, _, name = key.rpartition(".")
    return f"{section}:\n  {name}: {value}\n" if section else f"{name}: {value}\n"


@pytest.mark.parametrize("code", CODE)
@pytest.mark.parametrize("key", CODE_KEYS)
def test_only_an_override_names_code(key, code, tmp_path):
    text = yaml_of(key, CODE_KEYS[key].format(code))
    file = tmp_path / "evil.yaml"
    file.write_text(text)

    for read in (lambda: load_config(file), lambda: load_config_text(text, source="weights")):
        with pytest.raises(ConfigError, match=rf"{key}: '{code}' is code .*--trust-config"):
            read()
        with trusted_configs():
            assert code in str(read())
    assert code in str(load_config(None, [key, CODE_KEYS[key].format(code)]))


@pytest.mark.parametrize("address", ["https://example.com/x", "hf-hub:a/x", "hf_hub:a/x"])
@pytest.mark.parametrize("key", ADDRESS_KEYS)
def test_only_an_override_names_an_address(key, address):
    text = yaml_of(key, address)

    with pytest.raises(ConfigError, match=rf"{key}: .*is an address .*--trust-config"):
        load_config_text(text, source="weights")
    with trusted_configs():
        load_config_text(text, source="weights")
    load_config(None, [key, address])


@pytest.mark.parametrize("address", ["https://example.com/x.pyth", "hf-hub:a/b", "s3://a/b"])
def test_an_address_of_a_command_line_does_not_spoil_the_weights_of_its_run(address):
    config = load_config(None, ["TRAIN.CHECKPOINT_FILE_PATH", address, "OUTPUT_DIR", "runs/x"])

    written = load_config_text(config.without_addresses().to_yaml(), source="weights")

    assert written.train.checkpoint_file_path == f"address {address}"
    assert written.without_addresses() == written
    assert written.output_dir == "runs/x"


# Runs commands in one process; prints the statuses, and what an audit hook saw.
WATCHED = """
import json, sys
import slowfast_mvit.jobs.train, slowfast_mvit.jobs.test, slowfast_mvit.jobs.predict
import slowfast_mvit.jobs.finetune, slowfast_mvit.jobs.weights, slowfast_mvit.jobs.report
from slowfast_mvit.cli import main

seen = []

def hook(event, args):
    if event in ("os.system", "subprocess.Popen", "socket.connect", "socket.getaddrinfo"):
        seen.append(f"{event} {args}")
    if event == "import" and args[0] in ("antigravity", "evil", "webbrowser"):
        seen.append(f"import {args[0]}")

sys.addaudithook(hook)
print(json.dumps([[main(words) for words in json.loads(sys.argv[1])], seen]))
"""


def test_no_command_imports_starts_or_fetches_what_a_file_names(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "train.csv").write_text("touch${IFS}started 0\n")
    configs = [
        yaml_of(key, template.format(code))
        for (key, template), code in zip(CODE_KEYS.items(), (*CODE, CODE[1]), strict=True)
    ] + [yaml_of(key, "http://127.0.0.1:9/x") for key in ADDRESS_KEYS[::3]]
    commands = []
    (tmp_path / "x.mp4").touch()
    for number, text in enumerate(configs):
        run = tmp_path / f"run{number}"
        run.mkdir()
        (run / "config.yaml").write_text(text)
        (run / "test_results.json").write_text("{}")
        weights, cfg = run / "weights.pyth", run / "config.yaml"
        torch.save(
            {"cfg": text, "model_state": {"patch_embed.proj.weight": torch.zeros(1)}}, weights
        )
        for words in (
            ["train", "--cfg", cfg, "DATA.PATH_TO_DATA_DIR", tmp_path],
            ["test", "--cfg", cfg, "DATA.PATH_TO_DATA_DIR", tmp_path],
            ["predict", tmp_path / "x.mp4", "--weights", weights],
            ["predict", tmp_path / "x.mp4", "--weights", weights, "--cfg", cfg],
            ["weights", "convert", weights, run / "out.pyth"],
            ["weights", "inspect", weights],
            ["finetune", "--data", tmp_path, "--weights", weights],
            ["report", run],
            ["merge", run],
        ):
            commands.append([str(word) for word in words])

    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(commands)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
    )

    statuses, seen = json.loads(done.stdout.splitlines()[-1])
    assert seen == []
    assert not (tmp_path / "started").exists()
    assert {s for s, words in zip(statuses, commands, strict=True) if words[1] != "inspect"} == {2}
