"""A training run on real files, some of which cannot be read and one of which kills its reader.

As a program, ``python failing_run.py VIDEOS OUTPUT_DIR``, it stops in the middle of its second
epoch, says so, and waits to be killed.
"""

import contextlib
import hashlib
import multiprocessing
import os
import signal
import sys
from pathlib import Path

from tiny_run import tiny_net, tiny_train

from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loading.items import TrainVideos
from slowfast_mvit.data.loading.loader import train_loader
from slowfast_mvit.data.loading.worker_pool import WorkerSettings
from slowfast_mvit.data.video.readers import open_reader
from slowfast_mvit.data.views.train_views import TrainTransform
from slowfast_mvit.errors import DecodeError
from slowfast_mvit.structures import ClipSpec

BAD = ["broken.mp4", "kills.mp4", "missing.mp4"]


@contextlib.contextmanager
def open_lethal(path):
    """Kills its process with kills.mp4; in the main process that file is refused instead."""
    if path.name == "kills.mp4":
        if multiprocessing.parent_process() is None:
            raise DecodeError(f"{path}: refused")
        os.kill(os.getpid(), signal.SIGKILL)
    with open_reader(path) as reader:
        yield reader


class Noting:
    """A loader that records its batches, and prints a line at the end of the second epoch."""

    def __init__(self, loader, note, at_the_end_of_two):
        self.loader = loader
        self.note = note
        self.at_the_end_of_two = at_the_end_of_two
        self.num_videos = loader.num_videos

    def __len__(self):
        return len(self.loader)

    def epoch(self, epoch, start_step=0):
        for step, batch in enumerate(self.loader.epoch(epoch, start_step), start=start_step):
            if (epoch, step) == (1, len(self) - 1):
                self.at_the_end_of_two()
            digest = hashlib.sha256(batch.pixels.numpy().tobytes()).hexdigest()
            with open(self.note, "a") as file:
                file.write(f"{epoch} {step} {digest} {batch.video_ids} {batch.labels.tolist()}\n")
            yield batch


def failing_run(videos, output_dir, *, at_the_end_of_two=lambda: None, num_workers=0, **settings):
    """Train for three epochs on the videos of a folder and three bad ones."""
    names = sorted(path.name for path in Path(videos).glob("*.mp4") if path.name not in BAD)
    names = [*names[:12], *BAD]
    dataset = TrainVideos(
        VideoList(names, [number % 4 for number in range(15)], folder=videos, source="l"),
        ClipSpec(num_frames=2, sampling_rate=2),
        transform=TrainTransform(crop_px=4, scales_px=(4, 8)),
        seed=3,
        backend="failing_run:open_lethal",
    )
    Path(output_dir).mkdir(exist_ok=True)
    workers = WorkerSettings(num_workers, start_method="fork")  # starts fastest
    loader = train_loader(dataset, batch_size=5, seed=3, workers=workers)
    noting = Noting(loader, Path(output_dir) / "batches.txt", at_the_end_of_two)
    settings = {"max_epoch": 3, "max_failed_fraction": 0.5, **settings}
    tiny_train(tiny_net(), output_dir, loader=noting, **settings)


def wait_to_be_killed():
    print("in the second epoch", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    failing_run(sys.argv[1], sys.argv[2], at_the_end_of_two=wait_to_be_killed, num_workers=2)
