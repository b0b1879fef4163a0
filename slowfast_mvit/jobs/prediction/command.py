"""``slowfast-mvit predict``: many videos, printed and written as they are finished."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import signal
import sys
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from slowfast_mvit.errors import ConfigError, Stopped, printable, writing
from slowfast_mvit.evaluation.records import state_digest
from slowfast_mvit.jobs.predict import Predictor, check_top_k, load
from slowfast_mvit.jobs.prediction import output
from slowfast_mvit.jobs.prediction.reading import NUM_CLIPS, Reading, reading_of
from slowfast_mvit.jobs.prediction.render import render_timeline
from slowfast_mvit.jobs.prediction.sources import videos_of
from slowfast_mvit.runtime.log import setup_logging
from slowfast_mvit.storage import csv_text
from slowfast_mvit.structures import FailedVideo, VideoRecord

VIDEOS_FAILED = 3  # exit status: some videos could not be read, the others are done
_BAR = "{desc} {percentage:3.0f} %|{bar}| {elapsed}, ETA {remaining}{postfix}"


@dataclass(frozen=True)
class PredictOptions:
    """Plain options of the command.

    Attributes:
        top_k: classes of a verdict.
        clips: number of clips of a verdict; None for 5, or a timeline of a long video.
        window: length of the windows of a timeline in seconds.
        stride: seconds from a window to the next.
        timeline: whether to make timelines, whatever the length.
        form: "text", "json" or "csv": what is printed.
        output: file of the results; "" for none.
        render: MP4 with the timeline drawn in; "" for none.
        batch: views in each forward pass.
    """

    top_k: int = 5
    clips: int | None = None
    window: float | None = None
    stride: float | None = None
    timeline: bool = False
    form: str = "text"
    output: str = ""
    render: str = ""
    batch: int | None = None

    @property
    def suffix(self) -> str:
        """The suffix of ``output``, which is its format."""
        return Path(self.output).suffix.lower()

    @property
    def is_timeline(self) -> bool | None:
        """Return True for timelines, False for verdicts, None to decide by the length."""
        has_windows = self.window is not None or self.stride is not None
        is_subtitles = self.suffix in output.SUBTITLES
        if self.timeline or has_windows or self.render or is_subtitles:
            if self.clips is not None:
                raise ConfigError(
                    "--clips asks for one verdict; --timeline, --window, --stride, --render and "
                    "subtitles for a timeline. Leave one of them out"
                )
            return True
        return None if self.clips is None else False


def predict_job(
    sources: Sequence[str],
    options: PredictOptions,
    *,
    weights: str,
    config_file: str | None = None,
    ema: bool = False,
    device: str | None = None,
) -> int:
    """Predict videos; returns the exit status: 3 if some could not be read.

    Raises:
        ConfigError: options exclude each other; the weights have no input spec.
        UserError: a source names no video.
    """
    setup_logging(to_stderr=True)
    logging.getLogger("slowfast_mvit").setLevel(logging.WARNING)
    _check(options)
    videos = videos_of(sources)
    if len(videos) != 1 and (options.render or options.suffix in output.SUBTITLES):
        raise ConfigError(
            f"--render and subtitles are files of one video, and the sources name {len(videos)}. "
            "Name one, or --output FILE.jsonl"
        )
    predictor = load(weights, device=device, config_file=config_file, ema=ema)
    reading = reading_of(
        predictor.input_spec,
        num_clips=NUM_CLIPS if options.clips is None else options.clips,
        is_timeline=options.is_timeline,
        window_s=options.window,
        stride_s=options.stride,
    )
    run = _Run(predictor, reading, options, videos)
    try:
        return run.run()
    except KeyboardInterrupt:
        if options.suffix == ".jsonl":
            raise Stopped(signal.SIGINT) from None
        print("\nInterrupted. The results so far are complete.", file=sys.stderr)
        return 128 + signal.SIGINT


def _check(options: PredictOptions) -> None:
    check_top_k(options.top_k)
    _ = options.is_timeline
    if options.output:
        output.check_suffix(options.output)
    if options.batch is not None and options.batch < 1:
        raise ConfigError(f"--batch must be at least 1, got {options.batch}")
    if options.render and Path(options.render).suffix.lower() != ".mp4":
        raise ConfigError(f"--render {options.render}: writes MP4. Name a file that ends in .mp4")


@dataclass
class _Run:
    """One run of the command."""

    predictor: Predictor
    reading: Reading
    options: PredictOptions
    videos: Sequence[VideoRecord]

    def run(self) -> int:
        with contextlib.ExitStack() as stack:
            file, finished = None, dict[str, output.Record]()
            if self.options.output:
                file = output.OutputFile(self.options.output, self._fingerprint())
                stack.enter_context(file)
                finished = file.finished()
            if self.options.form == "csv":
                _print(csv_text([output.CSV_HEAD]), end="")
            known = {} if self.options.render else finished
            records = list[output.Record]()
            for record in stack.enter_context(contextlib.closing(self._records(known))):
                records.append(record)
                self._show(record)
                if file is not None and record["video"] not in finished:
                    file.add(record)
        return self._summary(records)

    def _fingerprint(self) -> str:
        """Return a digest of the weights and of the settings that decide the results."""
        settings = [asdict(self.reading), self.options.top_k, self.predictor.class_names]
        weights = state_digest(self.predictor.model.state_dict())
        return hashlib.sha256((json.dumps(settings) + weights).encode()).hexdigest()[:16]

    def _records(self, known: dict[str, output.Record]) -> Generator[output.Record, None, None]:
        """Yield the record of each video, in their order after those that are known."""
        yield from (known[video.path] for video in self.videos if video.path in known)
        videos = [video for video in self.videos if video.path not in known]
        bar = tqdm(total=len(videos), desc="predicting", bar_format=_BAR, disable=None, leave=False)
        with bar:
            for scored in self.predictor.scores(
                videos, self.reading, self.options.batch, on_progress=bar.update
            ):
                if isinstance(scored, FailedVideo):
                    tqdm.write(printable(f"failed: {scored}"), file=sys.stderr)
                    yield output.record_of_failure(scored)
                    continue
                is_timeline = scored.looked.is_timeline
                timeline = self.predictor.timeline_of(scored) if is_timeline else None
                names = self.predictor.class_names
                yield output.record_of(scored, names, self.options.top_k, timeline)
                if timeline is not None and self.options.render:
                    bar.reset(total=1)
                    bar.set_description("rendering")
                    path = scored.record.path
                    render_timeline(path, timeline, self.options.render, on_frame=bar.update)

    def _show(self, record: output.Record) -> None:
        if self.options.form == "json":
            _print(output.json_line(record), end="")
        elif self.options.form == "csv":
            _print(output.csv_lines(record), end="")
        else:
            is_only_one = len(self.videos) == 1
            for line in output.lines_of(record, is_only_one=is_only_one):
                _print(printable(line).replace("\n", "\\n"))
            if is_only_one and "looked_at" in record and "segments" not in record:
                print(record["looked_at"], file=sys.stderr)

    def _summary(self, records: Sequence[output.Record]) -> int:
        num_failed = sum("error" in record for record in records)
        num_right, num_labelled = output.accuracy(records)
        text = f"{len(records) - num_failed:,} of {len(records):,} videos predicted"
        if num_failed:
            text += f", {num_failed:,} could not be read"
        if num_labelled:
            rate = 100 * num_right / num_labelled
            text += f"; top-1 {rate:.1f} % of {num_labelled:,} videos with labels"
        if len(records) > 1 or num_failed or num_labelled:
            print(text, file=sys.stderr)
        return VIDEOS_FAILED if num_failed else 0


def _print(text: str, end: str = "\n") -> None:
    """Print a result, above the progress bar."""
    with writing("standard output"):
        tqdm.write(text, file=sys.stdout, end=end)
        sys.stdout.flush()
