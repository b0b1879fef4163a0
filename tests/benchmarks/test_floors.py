"""The floor of decoding: from the key frame to the last wanted frame."""

from __future__ import annotations

import subprocess

import av
import pytest

from benchmarks import decode


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """40 frames with B frames, a key frame every 10, shown from half a second on."""
    path = tmp_path_factory.mktemp("floor") / "video.mp4"
    options = {"g": "10", "keyint_min": "10", "sc_threshold": "0", "bf": "2"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(40):
            frame = av.VideoFrame(64, 48, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([5 * number]) * plane.buffer_size)
            frame.pts = number + 10
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("indices", "key", "num_frames"),
    [([0], 0, 1), ([13, 17], 10, 8), ([19, 12, 25], 10, 16), ([30, 39], 30, 10)],
)
def test_the_span_runs_from_the_key_frame_to_the_last_wanted_frame(video, indices, key, num_frames):
    span = decode.span_of(video, indices)

    assert span.key_s == pytest.approx(key / 20)
    assert span.num_frames == num_frames
    assert decode.libav_floor(video, indices) == num_frames


@pytest.mark.skipif(not decode.has_program(), reason="there is no ffmpeg program here")
@pytest.mark.parametrize("indices", [[0], [13, 17], [19, 12, 25], [30, 39]])
def test_the_program_decodes_that_span(video, indices):
    span = decode.span_of(video, indices)

    command = decode.program_command(video, span.key_s, span.num_frames, output="framecrc")
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    crcs = [line.split(",")[-1] for line in printed.splitlines() if not line.startswith("#")]
    first = max(indices) + 1 - span.num_frames
    assert len(crcs) == len(set(crcs)) == span.num_frames
    assert crcs == all_crcs(video)[first : first + span.num_frames]


def all_crcs(video) -> list[str]:
    command = ["ffmpeg", "-v", "error", "-i", str(video), "-fps_mode", "passthrough"]
    printed = subprocess.run(
        [*command, "-f", "framecrc", "-"], capture_output=True, text=True, check=True
    ).stdout
    return [line.split(",")[-1] for line in printed.splitlines() if not line.startswith("#")]
