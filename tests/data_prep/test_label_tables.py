"""Tables of labels in the forms that people have: read rightly, or refused with the columns."""

from __future__ import annotations

import pytest
from made_trees import adds_up, listed, put, rows, summary

from data_prep import from_folder
from slowfast_mvit.errors import ListError, UserError

FILES = [f"{name}/v_{name}_{i}.avi" for name in ("a", "b", "c") for i in range(4)]
LABELS = ["run", "swim", "jump rope"] * 4
TOP = list(zip(FILES, LABELS, strict=True))


def table(separator=",", header=None, form="{file}{s}{label}", of=TOP, end="\n") -> str:
    """One line a video, in a form with the fields below."""
    lines = [] if header is None else [header]
    for number, (file, label) in enumerate(of):
        name = file.rpartition("/")[2]
        fields = {
            "s": separator,
            "file": file,
            "name": name,
            "stem": name[:-4],
            "backslashes": file.replace("/", "\\"),
            "label": label,
            "label_": label.replace(" ", "_"),
            "id": {"swim": 0, "run": 1, "jump rope": 2}[label],
            "n": number,
            "n1": number + 1,
            "split": "val" if number % 4 == 3 else "train",
            "hash": f"{number + 2**31:08x}",
            "frames": 100 + number // 2,
            "seconds": 1.5 + number % 5,
        }
        lines.append(form.format(**fields))
    return end.join([*lines, ""])


FORMS = {
    "file and label": table(header="file,label"),
    "no header": table(),
    "another header": table(header="videos,labels"),
    "a header that is in no list of words": table(header="Aufnahme,Vorgang"),
    "class first": table(header="class,filename", form="{label},{file}"),
    "class first, no header": table(form="{label},{name}"),
    "German Excel": "\ufeff" + table(";", "Dateiname;Klasse", end="\r\n"),
    "Excel with sep=": "sep=;\r\n" + table(";", "Datei;Klasse", end="\r\n"),
    "Excel with sep= and tabs": "sep=\t\n" + table("\t"),
    "tabs": table("\t", "path\tlabel"),
    "bars": table("|", "path|label"),
    "spaces": table(form="{file} {label_}"),
    "old Mac line ends": table(header="file,label", end="\r"),
    "trailing separators": table(header="file,label,,", form="{file},{label},,"),
    "trailing separators, ragged": table(header="file,label", form="{file},{label},"),
    "quoted cells": table(header='"file","label"', form='"{file}","{label}"'),
    "spaces and quotes": table(header="file, label", form='{file}, "{label}"'),
    "pandas with index": table(header=",file,label", form="{n},{file},{label}"),
    "pandas with index, read twice": table(
        header=",Unnamed: 0,file,label", form="{n},{n},{file},{label}"
    ),
    "pandas with index, other names": table(header=",clip,what", form="{n},{file},{label}"),
    "pandas, no names": table(header=",0,1", form="{n},{file},{label}"),
    "pandas with index, no header": table(form="{n},{file},{label}"),
    "R with row names": table(header='"video","action"', form='"{n1}","{file}","{label}"'),
    "pandas with labels as floats": table(
        header="file,label,class_name", form="{file},{id}.0,{label}"
    ),
    "absolute paths": table(form="{{root}}/{file},{label}"),
    "paths of another machine": table(header="path,label", form="/home/me/set/{file},{label}"),
    "paths of Windows": table(header="path;label", form="D:\\set\\{backslashes};{label}"),
    "paths below a folder that is not there": table(form="videos/{file},{label}"),
    "stems": table(header="video_id,action", form="{stem},{label}"),
    "stems, no header": table(form="{stem},{label}"),
    "numbers with names": table(header="file,label_id,label_name", form="{file},{id},{label}"),
    "numbers with names, no header": table(form="{file},{id},{label}"),
    "path and name": table(header="path,name,label", form="{file},{name},{label}"),
    "more columns": table(
        header="id,path,seconds,label,remark", form="{n},{file},{seconds},{label},ok"
    ),
    "like Kinetics, ids as names": table(
        header="label,youtube_id,time_start,time_end", form="{label},{stem},0,10"
    ),
    "Label Studio": table(
        header="annotation_id,annotator,choice,created_at,id,lead_time,updated_at,video",
        form="{n},a@b.c,{label},2026-01-0{id}T10:00,1{n},{seconds},2026,/data/upload/1/{hash}-{name}",
    ),
    "Label Studio, local files": table(
        header="choice,id,video", form="{label},{n},/data/local-files/?d=set%2F{file}"
    ),
    "CVAT": table(header="image_name,label,xtl,ytl", form="{file},{label},1.5,{seconds}"),
    "two tables joined": table(header="file,label", of=TOP[:6])
    + table(header="file,label", of=TOP[6:]),
    "the first file is missing": table(header="Aufnahme,Vorgang", of=[("x/0.avi", "run"), *TOP]),
    "the first file is missing, no header": table(of=[("x/0.avi", "run"), *TOP]),
    "the first stem is missing, no header": table(
        form="{stem},{label}", of=[("zero.avi", "run"), *TOP]
    ),
}


def lists_of(tmp_path, text: str | bytes, *words: str) -> dict[str, str]:
    """Path -> class name of the lists that the script writes from a table."""
    put(tmp_path / "v", *FILES)
    content = text.encode() if isinstance(text, str) else text
    (tmp_path / "t.csv").write_bytes(content.replace(b"{root}", str(tmp_path / "v").encode()))
    words = (
        "--videos",
        f"{tmp_path}/v",
        "--out",
        f"{tmp_path}/out",
        "--labels",
        f"{tmp_path}/t.csv",
        *words,
    )
    assert from_folder.main(words) == 0
    names = listed(tmp_path / "out/classes.txt")
    lines = [line for file in ("train", "val") for line in _lines(tmp_path / f"out/{file}.csv")]
    return {path: names[int(label)] for path, label in (line.rsplit(" ", 1) for line in lines)}


def _lines(file):
    return listed(file) if file.exists() else []


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_read_by_its_content(tmp_path, form, capsys):
    assert lists_of(tmp_path, FORMS[form]) == dict(TOP)

    in_order = (
        ["swim", "run", "jump rope"] if "number" in form or "float" in form else sorted({*LABELS})
    )
    assert listed(tmp_path / "out/classes.txt") == in_order
    assert adds_up(tmp_path / "out")
    assert "t.csv: column " in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_table_may_be_in_utf_16(tmp_path, encoding):
    text = table("\t", "Datei\tKlasse").replace("run", "laufen für")

    assert lists_of(tmp_path, text.encode(encoding))[FILES[0]] == "laufen für"


@pytest.mark.parametrize("header", [None, "file,label,split", "a,b,c"])
def test_a_column_of_splits_is_identified(tmp_path, header):
    lists_of(tmp_path, table(header=header, form="{file},{label},{split}"))

    counts = {split: c["listed"] for split, c in summary(tmp_path / "out")["splits"].items()}
    assert counts == {"train": 9, "val": 3}


REFUSED = {
    "no files": (table(form="{label},{n}"), "no column names files that exist, such as 'a/v_a_0"),
    "another folder": (table(form="x{stem},{label}"), "no column names files that exist"),
    "files alone": (table(form="{file}"), "no column names classes"),
    "files and splits": (table(form="{file},{split}"), "no column names classes"),
    "files twice": (
        table(form="{file},{label},c/v_c_0.avi", of=TOP[:1])
        + table(form="{file},{label},a/v_a_0.avi", of=TOP[-1:]),
        "more than one column names files",
    ),
    "two columns of texts": (
        table(header="file,what,who", form="{file},{label},{split}s"),
        "more than one column may be that of the classes",
    ),
    "two columns that divide the files alike": (
        table(header="file,what,who", form="{file},{label},by {label}"),
        "more than one column may be that of the classes",
    ),
    "classes and numbers of frames": (
        table(form="{file},{label},{frames}"),
        "more than one column may be that of the classes",
    ),
    "two usual names": (
        table(header="file,category,action", form="{file},{split}s,{label}"),
        "more than one column may be that of the classes",
    ),
    "a header without a name for a column": (
        table(header="path,label", form="{file},{name},{label}"),
        "the first line names fewer columns than there are",
    ),
    "empty": ("\n;;\n", "the table is empty"),
    "a label with a comma": (
        table(header="file,label") + "a/v_a_1.avi,run, fast\n",
        "line 14: has 3 columns, the others 2. Put quotes",
    ),
    "zero bytes alone": ("a/v_a_0.avi\0,run\n", "line 1: contains a zero byte"),
    "quotes that are not closed": ('"a/v_a_0.avi,run\n' + table(), "no column names files|quotes"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_a_table_of_doubtful_columns_is_refused_and_shown(tmp_path, form):
    text, message = REFUSED[form]

    with pytest.raises(ListError, match=message) as caught:
        lists_of(tmp_path, text)

    if "column names" in str(caught.value) or "one column" in str(caught.value):
        assert "column 1: " in str(caught.value) and "with the word file over" in str(caught.value)


def test_the_words_file_and_label_decide_between_columns(tmp_path):
    text = table(header="label,who,category,file", form="{label},{split}s,{id},{file}")

    assert lists_of(tmp_path, text) == dict(TOP)


def test_a_class_to_train_on_without_a_file_stops_the_script(tmp_path):
    text = table(header="file,label") + "z/0.avi,ski\nz/1.avi,ski\n"

    with pytest.raises(UserError, match="class 'ski' has no videos to train on; 2 no file"):
        lists_of(tmp_path, text)


def test_labels_that_pandas_left_empty_are_no_class(tmp_path):
    lists_of(tmp_path, table(header="file,label") + "a/v_a_9.avi,nan\nb/v_b_9.avi,\n")

    assert [row["reason"] for row in rows(tmp_path / "out/missing.csv")] == ["no label"] * 2
