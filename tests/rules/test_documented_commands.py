"""Commands in the documents are those that exist: scripts, options, config files and keys."""

import contextlib
import functools
import io
import re
import runpy
import shlex
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from ranks import PRELOADED

from slowfast_mvit.config import load_config, split_cfg_words

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
PROGRAMS = ("python", "slowfast-mvit", "torchrun", "sbatch", "kubectl")


def commands():
    for document in DOCUMENTS:
        blocks = re.findall(r"^```\w*\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            if line.startswith(tuple(f"{program} " for program in PROGRAMS)):
                words = shlex.split(line, comments=True)
                if "..." not in words:
                    yield pytest.param(words, id=f"{document.name}: {' '.join(words)[:60]}")


@pytest.fixture(scope="module")
def help_of():
    """The help of a script or module with arguments, from a process that has imported torch."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        yield functools.cache(lambda *words: pool.submit(print_help, words).result())


def print_help(words):
    sys.argv[:] = [*words, "--help"]
    sys.path.insert(0, str(Path(words[0]).parent))
    printed = io.StringIO()
    run = runpy.run_path if words[0].endswith(".py") else runpy.run_module
    try:
        with contextlib.redirect_stdout(printed):
            run(words[0], run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, words
    return printed.getvalue()


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
def test_a_documented_command_can_be_given(words, help_of):
    for part in parts_of(words):
        require_possible(part, help_of)


def require_possible(words, help_of):
    if words[0] == "python" and words[1].startswith("-"):
        return
    if words[0] == "kubectl":
        assert (ROOT / words[-1]).is_file()
        return
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
        command = [str(ROOT / words[1])]
    elif words[0] == "torchrun":
        command = ["torch.distributed.run"]
    else:
        command = ["slowfast_mvit", words[1]]
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
