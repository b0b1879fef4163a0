"""Usage errors name the command, what was written and the nearest word that exists."""

import pytest

from slowfast_mvit.cli import main
from slowfast_mvit.cli.commands import run_net


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "there is no command 'trian'. Did you mean train?"),
        (["predict", "--wieghts", "w"], "slowfast-mvit predict: error: there is no option --wie"),
        (["predict", "a.mp4", "--wieghts=w"], "Did you mean --weights?"),
        (["weights", "convert", "a", "b", "--overwite"], "Did you mean --overwrite?"),
        (["launch", "--nproc-per-nod3", "2", "--", "train"], "nproc-per-nod3"),
        (["predict", "a.mp4"], "required: --weights"),
    ],
)
def test_usage_errors_name_the_nearest_word(words, expected, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)

    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert expected in text
    assert text.startswith("usage: slowfast-mvit")


def test_pyslowfasts_entry_point_does_too(capsys):
    with pytest.raises(SystemExit):
        run_net(["--cgf", "a.yaml"])

    assert "run_net.py: error: there is no option --cgf. Did you mean --cfg?" in (
        capsys.readouterr().err
    )


def test_without_a_command_the_help_is_printed(capsys):
    assert main([]) == 0

    assert "finetune" in capsys.readouterr().out
