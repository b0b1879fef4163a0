"""Predict the classes of videos with the ONNX file in this folder: predict_onnx.py VIDEO..."""

import json
import sys
from pathlib import Path

import av
import numpy as np
import onnxruntime

SPEC = json.loads(Path(__file__).with_name("contract.json").read_text(encoding="utf-8"))
T, SIDE, SCALE, N = SPEC["num_frames"], SPEC["crop_px"], SPEC["scale_px"], 5
session = onnxruntime.InferenceSession(str(Path(__file__).with_name(SPEC["file"])))
for path in sys.argv[1:]:
    video = av.open(path)
    num_frames = sum(packet.size > 0 for packet in video.demux(video=0))
    if SPEC["policy"] == "segments":  # the middle frame of each of T equal parts
        edges = np.round((num_frames - 1) / T * np.arange(T + 1)).astype(int)
        clips = (edges[None, :-1] + edges[None, 1:]) // 2
    else:  # T frames spread over each of N clips (2 or more), and those over the video
        length = max(1.0, SPEC["clip_s"] * float(video.streams.video[0].average_rate or 30))
        steps = np.linspace(0, length - 1, T, dtype=np.float32).clip(max=num_frames - 1).astype(int)
        clips = np.arange(N)[:, None] * int(max(num_frames - length, 0) // (N - 1)) + steps
    images: dict = dict.fromkeys(clips.flat)
    for number, frame in enumerate(av.open(path).decode(video=0)):
        if number in images:  # resized, upright, the centre cut out
            size = np.array([frame.width, frame.height])
            width, height = map(round, SCALE * size / (size if SPEC["squashes"] else min(size)))
            rgb = frame.reformat(width, height, "rgb24", interpolation=SPEC["swscale"])
            image = np.rot90(rgb.to_ndarray(), frame.rotation // 90)
            top, left = (np.array(image.shape[:2]) - SIDE + 1) // 2
            images[number] = last = image[top : top + SIDE, left : left + SIDE]
    batch = np.stack([[last if images[n] is None else images[n] for n in clip] for clip in clips])
    if SPEC["input"]["name"] == "pixels":
        batch = ((batch / 255 - SPEC["mean"]) / SPEC["std"]).transpose(0, 4, 1, 2, 3)
    scores = session.run(None, {SPEC["input"]["name"]: batch.astype(SPEC["input"]["dtype"])})[0]
    if SPEC["output"]["name"] == "logits":
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    probs = (scores / scores.sum(axis=1, keepdims=True)).mean(axis=0)
    print(path, *(f"{SPEC['labels'][k]}: {probs[k]:.4f}" for k in np.argsort(-probs)[:5]), sep="\n")
