"""Shards contain the packed files, byte for byte and the same each time, and lists name them."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from data_prep import pack_shards
from data_prep.journal import read_records
from data_prep.pack_shards import ShardInput
from slowfast_mvit.annotations.csv_lists import read_csv_file
from slowfast_mvit.annotations.records import ListSource
from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.video.shards import open_plain_file
from slowfast_mvit.errors import DecodeError, UserError

CONTENTS = {
    "a.mp4": b"1" * 700,
    "one class/b c.webm": b"2" * 1500,
    "one class/ä 日本.mp4": b"3" * 200,
    "d.mkv": b"4" * 900,
    "long " * 30 + "e.mp4": b"5" * 10,
}
LIST = '"one class/b c.webm" 1\na.mp4 0\n"one class/ä 日本.mp4" 1\nd.mkv 0\n'


@pytest.fixture
def videos(tmp_path) -> Path:
    root = tmp_path / "videos"
    for name, content in CONTENTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "train.csv").write_text(LIST)
    (root / "train-small.csv").write_text(f'd.mkv 0\n"{"long " * 30}e.mp4" 1\n')
    (root / "classes.txt").write_text("no\nyes\n")
    return root


def pack(videos: Path, to: Path, *words: object) -> int:
    fixed = ["pack", str(videos), "--to", str(to), "--out", str(to / "pack.jsonl"), "--workers=1"]
    return pack_shards.main([*fixed, *map(str, words)])


def contents_of(file: Path) -> list[tuple[bytes, int]]:
    """The videos of the list, in order."""
    found = []
    for video in VideoList.of(read_csv_file(file, ListSource(file.parent, "train"))):
        with open_plain_file(Path(video.path)) as content:
            found.append((content.read(), video.label))
    return found


def digests(folder: Path) -> dict[str, str]:
    files = sorted([*folder.rglob("*.tar"), *folder.rglob("*.tar.index")])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_lists_lead_to_the_packed_bytes_with_their_labels(videos, tmp_path):
    to = tmp_path / "to"
    lists = ("--list", videos / "train.csv", "--list", videos / "train-small.csv")

    assert pack(videos, to, *lists, "--shard-mb", "0.002") == 0

    first = '"shards/train-000000.tar/one class/b c.webm" 1'
    assert (to / "train.csv").read_text().splitlines()[0] == first
    names = ["one class/b c.webm", "a.mp4", "one class/ä 日本.mp4", "d.mkv"]
    labels = [1, 0, 1, 0]
    assert contents_of(to / "train.csv") == [
        (CONTENTS[name], label) for name, label in zip(names, labels, strict=True)
    ]
    assert [content[:1] for content, _ in contents_of(to / "train-small.csv")] == [b"4", b"5"]
    assert (to / "classes.txt").read_text() == "no\nyes\n"
    assert sorted(digests(to)) == [
        *("train-000000.tar", "train-000000.tar.index", "train-000001.tar"),
        *("train-000001.tar.index", "train-small-000000.tar", "train-small-000000.tar.index"),
    ]


def test_a_list_with_commas_is_read_and_written_with_spaces(videos, tmp_path):
    (videos / "train.csv").write_text("one class/b c.webm,1\na.mp4,0\n")

    pack(videos, tmp_path / "to", "--list", videos / "train.csv")

    assert (tmp_path / "to" / "train.csv").read_text() == (
        '"shards/train-000000.tar/one class/b c.webm" 1\nshards/train-000000.tar/a.mp4 0\n'
    )


def test_shards_are_plain_tar_files_without_times_or_owners(videos, tmp_path):
    pack(videos, tmp_path / "to")

    with tarfile.open(tmp_path / "to" / "shards" / "videos-000000.tar", "r:") as archive:
        members = archive.getmembers()
        assert {member.name for member in members} == set(CONTENTS)
        assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}


def test_the_same_videos_give_the_same_bytes_on_any_day_and_shards_are_not_written_twice(
    videos, tmp_path
):
    words = ("--list", videos / "train.csv", "--shard-count", "2")
    pack(videos, tmp_path / "one", *words)
    for path in videos.rglob("*.*"):
        os.utime(path, (1, 1))
    pack(videos, tmp_path / "two", *words, "--workers", "2")

    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(digests(tmp_path / "one")) == 4
    records = list(read_records(tmp_path / "one" / "pack.jsonl"))
    assert {r["path"]: r["sha256"] for r in records}.items() <= digests(tmp_path / "one").items()
    assert [record["bytes"] for record in records] == [10240, 10240]
    assert sum(record["videos"] for record in records) == 4

    shard = tmp_path / "one" / "shards" / "train-000000.tar"
    other = tmp_path / "one" / "shards" / "train-000001.tar"
    written = shard.stat().st_mtime_ns
    other.unlink()
    shard.with_name("train-000000.tar.index").unlink()
    pack(videos, tmp_path / "one", *words)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")

    written = shard.stat().st_mtime_ns
    other.unlink()
    pack(videos, tmp_path / "one", *words)
    assert shard.stat().st_mtime_ns == written
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_changed_list_packs_again_what_it_changes(videos, tmp_path):
    words = ("--list", videos / "train.csv", "--shard-count", "2")
    pack(videos, tmp_path / "to", *words)
    before = digests(tmp_path / "to")
    (videos / "train.csv").write_text(LIST.replace("d.mkv 0\n", f'"{"long " * 30}e.mp4" 1\n'))

    pack(videos, tmp_path / "to", *words)

    after = digests(tmp_path / "to")
    assert after["train-000000.tar"] == before["train-000000.tar"]
    assert after["train-000001.tar"] != before["train-000001.tar"]
    starts = b"".join(content[:1] for content, _ in contents_of(tmp_path / "to" / "train.csv"))
    assert starts == b"2135"


def test_a_video_of_other_content_and_the_same_size_is_packed_again(videos, tmp_path):
    words = ("--list", videos / "train.csv")
    pack(videos, tmp_path / "to", *words)
    (videos / "a.mp4").write_bytes(b"9" * 700)

    pack(videos, tmp_path / "to", *words)

    assert contents_of(tmp_path / "to" / "train.csv")[1] == (b"9" * 700, 0)


def test_shards_of_another_division_are_named(videos, tmp_path, capsys):
    words = ("--list", videos / "train.csv", "--list", videos / "train-small.csv")
    pack(videos, tmp_path / "to", *words, "--shard-count", "2")
    assert "remove them" not in capsys.readouterr().out

    pack(videos, tmp_path / "to", *words, "--shard-count", "1")

    printed = capsys.readouterr().out
    assert "remove them: train-000001.tar\n" in printed
    assert "remove them: train-small-000001.tar\n" in printed


def test_lists_that_cannot_be_written_into_one_folder_are_refused(videos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "classes.txt").write_text("yes\nno\n")
    (other / "train.csv").write_text("a.mp4 0\n")
    lists = ("--list", videos / "train.csv", "--list", other / "train.csv")

    with pytest.raises(UserError, match="2 problems") as caught:
        pack(videos, tmp_path / "to", *lists)
    assert "would both become train. Rename one" in str(caught.value)
    assert "labels have more than one meaning" in str(caught.value)
    with pytest.raises(UserError, match=r"train\.csv would be overwritten"):
        pack(videos, videos, "--list", videos / "train.csv")
    assert (videos / "train.csv").read_text() == LIST


def test_options_out_of_their_range_are_refused_all_at_once(videos, tmp_path):
    words = ("--shard-mb", "nan", "--shard-count", "-1", "--shuffle", "-1")

    with pytest.raises(UserError, match=r"3 problems\n.*-mb.*\n.*-count.*\n.*--shuffle"):
        pack(videos, tmp_path / "to", *words)


def test_shuffling_mixes_by_the_seed_and_keeps_the_list_in_its_order(videos, tmp_path):
    for name, seed in (("one", 1), ("two", 1), ("three", 4)):
        words = ("--list", videos / "train.csv", "--shard-count", "2", "--shuffle", seed)
        pack(videos, tmp_path / name, *words)

    assert digests(tmp_path / "one") == digests(tmp_path / "two") != digests(tmp_path / "three")
    expected = contents_of(videos / "train.csv")
    assert contents_of(tmp_path / "one" / "train.csv") == expected
    assert contents_of(tmp_path / "three" / "train.csv") == expected


def test_missing_and_empty_videos_are_named_all_at_once(videos, tmp_path):
    (videos / "a.mp4").unlink()
    (videos / "d.mkv").write_bytes(b"")

    with pytest.raises(UserError, match=r"2 problems\n.*a\.mp4 is missing.*\n.*d\.mkv is missing"):
        pack(videos, tmp_path / "to", "--list", videos / "train.csv")
    assert not list(tmp_path.rglob("*.tar"))


def test_a_video_that_changes_while_it_is_packed_leaves_no_shard(videos, tmp_path):
    shard = ShardInput("s.tar", tmp_path / "s.tar", [("a.mp4", str(videos / "a.mp4"), 5, 0)])

    with pytest.raises(DecodeError, match=r"a\.mp4: has changed"):
        pack_shards.pack(shard, to=str(tmp_path))

    assert not list(tmp_path.glob("*.tar*")) and not list(tmp_path.glob(".tmp*"))


def webdataset(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_a_webdataset_becomes_a_list(tmp_path, capsys):
    one = {"k1.mp4": b"video 1", "k1.cls": b"3\n", "k2.mp4": b"video 2", "k2.json": b'{"y": 5}'}
    (tmp_path / "s").mkdir()
    shards = [
        webdataset(tmp_path / "s" / "000.tar", one),
        webdataset(tmp_path / "s" / "001.tar", {"a b/k.webm": b"video 3", "a b/k.cls": b"0"}),
    ]
    words = ["list", *map(str, shards), "--csv", str(tmp_path / "train.csv")]

    assert pack_shards.main([*words, "--json-field", "y"]) == 0

    assert contents_of(tmp_path / "train.csv") == [
        (b"video 1", 3),
        (b"video 2", 5),
        (b"video 3", 0),
    ]
    assert "000.tar.index: 4 files" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"000\.tar: k2\.json has no field 'label'"):
        pack_shards.main(words)


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"k.mp4": b"v"}, "neither k.cls nor k.json"),
        ({"k.mp4": b"v", "k.cls": b"cat"}, "k.cls is 'cat', not a class index"),
        ({"k.mp4": b"v", "k.json": b"{"}, "k.json is not JSON"),
    ],
)
def test_videos_without_a_usable_label_are_named(tmp_path, members, problem):
    shard = webdataset(tmp_path / "a.tar", members)

    with pytest.raises(UserError, match=problem):
        pack_shards.main(["list", str(shard), "--csv", str(tmp_path / "train.csv")])
    assert not (tmp_path / "train.csv").exists()


def test_indexing_a_file_that_is_no_shard_is_an_error(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"no tar" * 500)

    with pytest.raises(DecodeError, match="not an uncompressed tar file"):
        pack_shards.main(["index", str(path)])
