"""Help and usage errors come at once: in a fraction of a second, before torch is imported."""

import json
import subprocess
import sys
import time

import pytest

COMMANDS = ["train", "test", "merge", "run_net", "finetune", "launch", "ray", "predict", "report"]
COMMANDS += ["watch", "weights", "demo", "certify", "models", "export"]
HELP = [["--help"], [], ["--version"], *([name, "--help"] for name in COMMANDS)]
HELP += [["launch", "--nproc_per_node", "2", "--", "train", "--help"]]
HELP += [["weights", "inspect", "--help"], ["weights", "convert", "--help"]]
MISTAKES = [
    ["trian"],
    *([name, "--no-such-option"] for name in COMMANDS),
    ["train"],
    ["train", "--cfg", "nowhere.yaml"],
    ["train", "--cfg", "Demo/motion.yaml", "MVIT.DEPHT", "3"],
    ["test", "--part", "5/4", "--cfg", "Demo/motion.yaml"],
    ["test", "--part", "9" * 5000, "--cfg", "Demo/motion.yaml"],
    ["launch", "--nnodes", "x", "--", "train"],
    ["launch", "--nnodes", "2", "--", "train"],
    ["launch", "--", "predict"],
    ["launch", "--", "train", "--cfgg", "Demo/motion.yaml"],
    ["launch", "--", "test", "--cfg", "Demo/motion.yaml", "MVIT.DEPHT", "3"],
    ["launch"],
    ["ray", "--num-workers", "2", "--", "test"],
    ["predict", "a.mp4"],
    ["export", "a.pyth"],
    ["export", "a.pyth", "--to", "tflite", "--out", "x"],
    *([name, "nowhere"] for name in ("report", "watch", "merge")),
    ["weights"],
    ["weights", "inspect"],
    ["finetune"],
    ["demo", "OUTPUT_DIR"],
]
SCRIPT = """
import json, sys
from slowfast_mvit.cli import main

statuses = []
for words in json.loads(sys.argv[1]):
    try:
        statuses.append(main(words))
    except SystemExit as ended:
        statuses.append(ended.code)
    assert "torch" not in sys.modules, words
print(json.dumps(statuses))
"""


@pytest.mark.parametrize(("commands", "status"), [(HELP, 0), (MISTAKES, 2)])
def test_help_and_usage_errors_import_no_torch(commands, status):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    statuses = json.loads(done.stdout.splitlines()[-1])
    assert dict(zip(map(str, commands), statuses, strict=True)) == dict.fromkeys(
        map(str, commands), status
    )


def test_every_command_is_in_the_help():
    from slowfast_mvit.cli.commands import _parser

    (commands,) = _parser()._subparsers._group_actions
    assert set(commands.choices) == set(COMMANDS)


@pytest.mark.nightly  # on a quiet machine
@pytest.mark.parametrize("words", [*HELP, *MISTAKES], ids=lambda words: " ".join(words)[:40])
def test_the_answer_takes_less_than_0_3_seconds(words):
    seconds = []
    for _ in range(5):
        start_s = time.monotonic()
        subprocess.run([sys.executable, "-m", "slowfast_mvit", *words], capture_output=True)
        seconds.append(time.monotonic() - start_s)

    assert min(seconds) < 0.3
