"""Reads batches for ever: ``python endless_loader.py FOLDER START_METHOD``."""

import sys
from pathlib import Path

from slowfast_mvit.data.lists import VideoList
from slowfast_mvit.data.loading.items import TrainVideos
from slowfast_mvit.data.loading.loader import train_loader
from slowfast_mvit.data.loading.worker_pool import WorkerSettings
from slowfast_mvit.data.views.train_views import TrainTransform
from slowfast_mvit.structures import ClipSpec


def main(folder, start_method):
    names = sorted(path.name for path in Path(folder).glob("*.mp4"))
    dataset = TrainVideos(
        VideoList(names, [0] * len(names), folder=folder, source="l"),
        ClipSpec(num_frames=2, sampling_rate=2),
        transform=TrainTransform(crop_px=16, scales_px=(16, 16)),
    )
    workers = WorkerSettings(2, start_method=start_method)
    loader = train_loader(dataset, batch_size=1, seed=0, workers=workers)
    for epoch in range(1_000_000):
        for _ in loader.epoch(epoch):
            if epoch == 0:
                print(*(worker._process.pid for worker in loader._pool._workers), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
