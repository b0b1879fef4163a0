"""Buffers that a worker writes and the main process reads."""

from __future__ import annotations

import gc
import os

import torch

from slowfast_mvit.data.loading.shared_pixels import ReadBuffers, WrittenBuffers


def pair(num_bytes=8, num_buffers=1):
    written, read = WrittenBuffers(num_bytes), ReadBuffers(num_bytes)
    for _ in range(num_buffers):
        _, descriptor = written.make()
        read.add(descriptor)
    return written, read


def test_what_is_written_is_read_without_a_copy():
    written, read = pair()
    written[0][:] = torch.arange(8)

    lent = read.acquire(0)
    written[0][3] = 77

    assert lent.tolist() == [0, 1, 2, 77, 4, 5, 6, 7]


def test_a_buffer_is_free_when_no_tensor_shares_its_memory():
    _, read = pair(num_buffers=2)
    assert read.release() is None
    lent = read.acquire(1)
    part = lent.view(2, 4)[1:]

    del lent
    assert read.release() is None

    del part
    assert read.release() == 1
    assert read.release() is None


def test_a_tensor_outlives_the_buffers():
    written, read = pair()
    written[0][:] = 5
    lent = read.acquire(0)

    del written, read

    assert lent.tolist() == [5] * 8


def test_descriptors_are_closed():
    gc.collect()
    before = len(os.listdir("/dev/fd"))

    for _ in range(20):
        pair()

    assert len(os.listdir("/dev/fd")) == before
