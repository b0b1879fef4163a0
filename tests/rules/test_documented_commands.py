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


PROGRAMS = ("python", "slowfast-mvit", "torchrun", "sbatch", "kubectl")


def commands():
    for document in DOCUMENTS:
        blocks = re.findall(r"^```\w*\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            if line.startswith(tuple(f"{program} " for program in PROGRAMS)):
                words = shlex.split(line, comments=True)
                if "..." not in words:
                    yield pytest.param(words, id=f"{document.name}: {' '.join(words)[:60]}")


@functools.cache
def help_of(*command):
    answer = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def parts_of(words):
    """The command, and those that it starts: behind ``--``, by torchrun, or in a batch job."""
    if words[0] == "torchrun":
        place = next(number for number, word in enumerate(words) if word.endswith(".py"))
        yield words[:place]
        yield from parts_of(["python", *words[place:]])
    elif words[0] == "sbatch" and "--wrap" in words:
        yield from parts_of(shlex.split(words[words.index("--wrap") + 1]))
    elif words[0] == "sbatch":
        place = next(number for number, word in enumerate(words) if word.endswith(".sbatch"))
        assert (ROOT / words[place]).is_file()
        yield from parts_of(["slowfast-mvit", *words[place + 1 :]])
    elif words[0] == "slowfast-mvit" and "--" in words:
        yield words[: words.index("--")]
        yield from parts_of(["slowfast-mvit", *words[words.index("--") + 1 :]])
    else:
        yield words


@pytest.mark.parametrize("words", list(commands()))
def test_a_documented_command_can_be_given(words):
    for part in parts_of(words):
        require_possible(part)


def require_possible(words):
    if words[0] == "python" and words[1].startswith("-"):
        return
    if words[0] == "kubectl":
        assert (ROOT / words[-1]).is_file()
        return
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
        command = [sys.executable, words[1]]
    elif words[0] == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run"]
    else:
        command = [sys.executable, "-c", CONSOLE_COMMAND, words[1]]
    options = [word for word in words[1:] if word.startswith("--")]
    missing = [word for word in options if word not in help_of(*command)]
    assert not missing
    if "--cfg" in words:
        files, overrides = split_cfg_words(words[words.index("--cfg") + 1 :])
        flags = [number for number, word in enumerate(overrides) if word.startswith("--")]
        for file in files:
            load_config(
                file,
                [re.sub(r"\$\w+", "1", word) for word in overrides[: min(flags, default=None)]],
            )
