"""Commands in the documents are those that exist: scripts, options, config files and keys."""

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from slowfast_mvit.config import load_config, split_cfg_words

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
CONSOLE_COMMAND = "import sys; from slowfast_mvit.cli import main; sys.exit(main())"


def commands():
    for document in DOCUMENTS:
        blocks = re.findall(r"^```\w*\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            if re.match(r"python |slowfast-mvit ", line):
                words = shlex.split(line, comments=True)
                if "..." not in words:
                    yield pytest.param(words, id=f"{document.name}: {' '.join(words)[:60]}")


@functools.cache
def help_of(*command):
    answer = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("words", list(commands()))
def test_a_documented_command_can_be_given(words):
    if words[0] == "python" and words[1].startswith("-"):
        return
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
        command = [sys.executable, words[1]]
    else:
        command = [sys.executable, "-c", CONSOLE_COMMAND, words[1]]
    options = [word for word in words[2:] if word.startswith("--")]
    missing = [word for word in options if word not in help_of(*command)]
    assert not missing
    if "--cfg" in words:
        files, overrides = split_cfg_words(words[words.index("--cfg") + 1 :])
        for file in files:
            load_config(file, [re.sub(r"\$\w+", "1", word) for word in overrides])
