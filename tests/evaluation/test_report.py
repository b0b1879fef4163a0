"""The report is one sound HTML file: complete, closed to the network, and safe with any names."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import av
import numpy as np
import pytest

from slowfast_mvit.errors import UserError
from slowfast_mvit.evaluation.metrics import hardest_videos
from slowfast_mvit.evaluation.report import epoch_curves, write_report
from slowfast_mvit.evaluation.results import summarise
from slowfast_mvit.evaluation.thumbnails import film_of
from slowfast_mvit.structures import FailedVideo, VideoScores, ViewPlan, views_as_text

HOSTILE_NAMES = [
    "<img src=x onerror=alert(1)>",
    "</style><script>alert(1)</script>",
    '" onmouseover="alert(1)',
    "$x^2$ & 'quotes'",
    "右に回る",
    "turned \u202earound",
    "\x1b[31mred\x00",
    "caf\udce9",
]
BROKEN = FailedVideo("bro<b>ken.mp4", "/d/bro.mp4", "the <i>file</i> ended early")
HISTORY = [
    {"_type": "train_iter_", "epoch": "1/3", "loss": 9.0},
    {"_type": "train_epoch", "epoch": "1/3", "loss": 2.0, "top1_err": 80.0},
    {"_type": "val_epoch", "epoch": "1/3", "top1_err": 70.0},
    {"_type": "train_epoch", "epoch": "2/3", "loss": 1.5, "top1_err": 60.0},
    {"_type": "train_epoch", "epoch": "2/3", "loss": 1.0, "top1_err": 50.0},  # after a resume
    {"_type": "train_epoch", "epoch": "3/3", "loss": None, "top1_err": 40.0},  # was not a number
    {"_type": "val_epoch", "epoch": "3/3", "top1_err": float("inf")},
    {"_type": "val_epoch", "top1_err": "70"},
    {"split": "test_final", "top1_acc": "60.00"},
]
CHROMIUM = shutil.which("chromium")
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Outline(HTMLParser):
    """The elements of a page; notes every tag that is closed out of turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.attributes, self.text = [], [], [], []
        self.tags = set()
        self.feed(text)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def decoded(address):
    """The pixels (H, W, 3) behind a ``data:`` address, read by FFmpeg."""
    with av.open(io.BytesIO(base64.b64decode(address.partition("base64,")[2]))) as image:
        return next(image.decode(video=0)).to_ndarray(format="rgb24")


def scores_of(num_videos, num_classes):
    """Scores that are mostly correct; the last videos are predicted as the class before theirs."""
    labels = np.arange(num_videos) % num_classes
    said = np.where(np.arange(num_videos) < 0.75 * num_videos, labels, labels - 1)
    probs = np.full((num_videos, num_classes), 0.2 / num_classes, dtype=np.float32)
    probs[np.arange(num_videos), labels] = 0.3
    probs[np.arange(num_videos), said] = 0.5
    views = ViewPlan(num_clips=2, num_crops=3, scale_px=64, crop_px=64).views().numpy()
    view_probs = np.repeat(probs[:, None], len(views), axis=1).astype(np.float16)
    ids = tuple(f"val/{index}.mp4" for index in range(num_videos))
    return VideoScores(ids, labels, views, view_probs, probs)


def report_of(folder, scores, class_names=None, failed_videos=(), **changes):
    result = summarise(
        scores,
        class_names=class_names,
        failed_videos=failed_videos,
        num_listed=len(scores.video_ids) + len(failed_videos),
        config_digest="abc123",
    )
    arguments = {"thumbnails": {}, "config_text": "MODEL:\n  NUM_CLASSES: 8\n", "title": "motion"}
    path = write_report(
        folder / "report.html",
        result=result,
        scores=scores,
        class_names=class_names,
        **{**arguments, **changes},
    )
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("num_videos", "num_classes"), [(1, 1), (12, 3), (160, 8), (900, 400)])
def test_is_well_formed_html_for_any_number_of_classes(num_videos, num_classes, tmp_path):
    page = report_of(tmp_path, scores_of(num_videos, num_classes), history=HISTORY)

    assert Outline(page).wrong == []


def test_asks_nothing_of_the_network_and_runs_nothing(tmp_path):
    page = report_of(tmp_path, scores_of(160, 8), history=HISTORY)

    outline = Outline(page)
    policy = next(value for _, name, value in outline.attributes if (value or "").startswith("def"))
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    (data, script) = re.findall(r"<script[^>]*>(.*?)</script>", page, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and len(script) < 40_000
    assert json.loads(data)["num_views"] == 6
    assert not re.search("https?://|@import|url\\(", page)
    assert not outline.tags & {"iframe", "object", "form", "link"}
    for tag, name, value in outline.attributes:
        assert not name.startswith("on"), tag
        if name in ("src", "href"):
            assert value.startswith(("data:image/", "#"))


def test_hostile_names_are_shown_and_do_nothing(tmp_path):
    scores = scores_of(160, 8)

    page = report_of(
        tmp_path,
        scores,
        class_names=HOSTILE_NAMES,
        failed_videos=[BROKEN],
        title="<u>title</u>",
        notes=["<u>note</u>"],
        config_text="A: '</pre><script>alert(1)</script>'\n",
    )

    outline = Outline(page)
    shown = "".join(outline.text)
    assert outline.wrong == []
    assert "u" not in outline.tags and page.count("<script") == 2
    assert not [name for _, name, _ in outline.attributes if name.startswith("on")]
    for name in HOSTILE_NAMES[:5]:
        assert name in shown
    assert "turned \\u202earound" in shown
    assert "\\x1b[31mred\\x00" in shown
    assert "caf\\udce9" in shown
    assert BROKEN.video_id in shown
    assert BROKEN.reason in shown
    assert "A: '</pre><script>alert(1)</script>'" in shown


def test_headline_shows_the_numbers(tmp_path):
    shown = "".join(Outline(report_of(tmp_path, scores_of(160, 8), failed_videos=[BROKEN])).text)

    for words in ("75.0%", "100.0%", "160", "of 161 in the list", "2 clips x 3 crops", "abc123"):
        assert words in shown
    assert "95% interval 67.8 to 81.1" in shown


def test_classes_are_sorted_from_the_best_to_the_weakest(tmp_path):
    labels = np.array([0, 0, 1, 1, 2, 2])
    probs = np.eye(3, dtype=np.float32)[[1, 0, 1, 1, 0, 1]]
    view = np.zeros((1, 2), dtype=np.int64)
    scores = VideoScores(tuple("abcdef"), labels, view, probs[:, None].astype(np.float16), probs)

    page = report_of(tmp_path, scores, class_names=["half", "all", "none"])

    bars = re.search(r'<ul class="bars">.*?</ul>', page, flags=re.S).group()
    assert re.findall(r'title="(\w+)".*?width:([\d.]+)%', bars) == [
        ("all", "100.00"),
        ("half", "50.00"),
        ("none", "0.00"),
    ]


def test_few_classes_get_a_table_of_counts_and_the_frequent_mistakes(tmp_path):
    page = report_of(tmp_path, scores_of(160, 8), class_names=list("abcdefgh"))

    table = re.search(r'<table class="matrix">.*?</table>', page, flags=re.S).group()
    assert [int(count) for count in re.findall(r">(\d+)</td>", table)].count(15) == 8
    assert "5 of 20" in page


def test_many_classes_get_an_image_with_a_pixel_for_each_pair(tmp_path):
    page = report_of(tmp_path, scores_of(900, 400))

    image = decoded(re.search(r'<image href="(data:image/png;[^"]+)"', page).group(1))
    assert image.shape == (400, 400, 3)
    assert image[0, 200].tolist() == [255, 255, 255]  # no video of class 0 is predicted as 200
    red, _, blue = image[350, 350].tolist()
    assert blue > red  # correct: blue
    red, _, blue = image[390, 389].tolist()
    assert red > blue  # 390 predicted as 389: red


def test_hardest_videos_show_what_the_model_saw(tmp_path):
    scores = scores_of(160, 8)
    hardest = scores.video_ids[hardest_videos(scores, 1)[0]]
    across = np.linspace(0, 255, 64, dtype=np.uint8)
    frame = np.stack(
        [
            np.broadcast_to(across, (47, 64)),
            np.full((47, 64), 200),
            255 - across + np.zeros((47, 1)),
        ],
        axis=2,
    ).astype(np.uint8)
    large = np.zeros((480, 640, 3), dtype=np.uint8)

    page = report_of(tmp_path, scores, thumbnails={hardest: film_of([frame] * 15 + [large])})

    found = re.findall(r'src="(data:image/jpeg;[^"]+)" alt="frame (\d+) of 16"', page)
    assert [int(number) for _, number in found] == [1, 3, 5, 7, 10, 12, 14, 16]
    error = decoded(found[0][0]).astype(float) - frame
    assert np.abs(error).mean() < 2
    assert decoded(found[-1][0]).shape == (120, 160, 3)


def test_training_curves_take_the_last_record_of_an_epoch():
    assert epoch_curves(HISTORY, "loss") == {"train": [(1, 2.0), (2, 1.0)]}
    assert epoch_curves(HISTORY, "top1_err") == {
        "train": [(1, 80.0), (2, 50.0), (3, 40.0)],
        "val": [(1, 70.0)],
    }


def test_training_curves_are_there_when_there_was_training(tmp_path):
    scores = scores_of(160, 8)

    assert "train, last 40" in report_of(tmp_path, scores, history=HISTORY)
    assert 'id="training"' not in report_of(tmp_path, scores)


@pytest.mark.parametrize(
    ("clips", "crops", "words"), [(5, 1, "5 clips x 1 crop"), (1, 3, "1 clip x 3 crops")]
)
def test_views_are_described_as_clips_x_crops(clips, crops, words):
    plan = ViewPlan(num_clips=clips, num_crops=crops, scale_px=64, crop_px=64)

    assert views_as_text(clips, crops) == words == str(plan)


def test_equal_results_give_equal_reports(tmp_path):
    scores = scores_of(160, 8)

    assert report_of(tmp_path, scores) == report_of(tmp_path, scores)


def test_class_names_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="7 class names, but the model has 8 classes"):
        report_of(tmp_path, scores_of(160, 8), class_names=HOSTILE_NAMES[:7])


def test_a_class_more_than_an_image_can_show_costs_no_matrix(tmp_path):
    scores = scores_of(40, 20_000)

    page = report_of(tmp_path, scores)

    assert "There is no image of more than 2,000 classes" in page
    assert Outline(page).wrong == []


def table_of(page):
    return json.loads(re.search(r'id="videos-data">(.*?)</script>', page, flags=re.S).group(1))


def test_the_table_has_every_video(tmp_path):
    scores = scores_of(160, 8)
    scores.view_probs[0, :2] = 1 - scores.view_probs[0, :2]  # two of six views disagree

    table = table_of(report_of(tmp_path, scores, class_names=list("abcdefgh")))

    assert (table["prefix"], table["suffix"]) == ("val/", ".mp4")
    assert table["videos"] == [str(number) for number in range(160)]
    assert table["classes"] == list("abcdefgh")
    assert table["true"] == scores.labels.tolist()
    assert table["predicted"] == scores.probs.argmax(axis=1).tolist()
    assert set(table["p_true"]) == {300, 500} and set(table["p_predicted"]) == {500}
    assert table["agreement"] == [4] + [6] * 159


def test_no_name_ends_the_script_element(tmp_path):
    names = ["</script><script>alert(1)</script>", "<!--<script>", "\u202ecod"]
    ids = tuple(f"{name}{index}" for index, name in enumerate(names))
    scores = scores_of(3, 3)
    scores = VideoScores(ids, scores.labels, scores.views, scores.view_probs, scores.probs)

    page = report_of(tmp_path, scores, class_names=names)

    assert page.count("</script") == page.count("<script") == 2
    assert table_of(page)["videos"] == [*ids[:2], "\\u202ecod2"]


# Uses the table as a reader does; the texts that it shows become the title.
READER = """<script>
addEventListener("load", () => {
  const part = (name) => document.querySelector(`[data-part="${name}"]`);
  const set = (name, value) => {
    part(name).value = value;
    part(name).dispatchEvent(new Event("input"));
  };
  const shown = [];
  const note = () => {
    shown.push(part("count").textContent + "; " + part("rows").firstChild?.textContent);
  };
  note();
  set("search", "VAL/15");
  note();
  set("search", "");
  set("answer", "wrong");
  note();
  document.querySelector('td[data-videos="3 2"]').click();
  note();
  set("true", "nothing");
  shown.push(part("true").getAttribute("aria-invalid"));
  set("true", "");
  set("predicted", "");
  part("window").scrollTop = 1e6;
  part("window").dispatchEvent(new Event("scroll"));
  shown.push(part("rows").childElementCount);
  document.title = JSON.stringify(shown);
});
</script>"""


@pytest.mark.nightly
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_table_is_searched_filtered_and_drawn_as_it_scrolls(tmp_path):
    page = report_of(tmp_path, scores_of(160, 8), class_names=list("abcdefgh"))
    policy = re.compile('<meta http-equiv="Content-Security-Policy"[^>]*>')
    (tmp_path / "page.html").write_text(policy.sub("", page).replace("</body>", READER + "</body>"))

    title = title_of(tmp_path / "page.html")

    assert json.loads(title) == [
        "160 of 160 videos; val/120.mp4ah30.0%50.0%6 of 6",
        "11 of 160 videos; val/150.mp4gf30.0%50.0%6 of 6",
        "40 of 160 videos; val/120.mp4ah30.0%50.0%6 of 6",
        "5 of 160 videos; val/123.mp4dc30.0%50.0%6 of 6",
        "true",
        22,  # the last 17 rows and 5 above
    ]


@pytest.mark.nightly
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_policy_lets_the_script_of_the_page_run(tmp_path):
    report_of(tmp_path, scores_of(160, 8))

    dom = dom_of(tmp_path / "report.html")

    assert '<section id="videos" class="videos">' in dom and "160 of 160 videos" in dom


def dom_of(path):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def title_of(path):
    return html.unescape(re.search("<title>(.*?)</title>", dom_of(path), flags=re.S).group(1))
