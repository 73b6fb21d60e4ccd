"""Recordings of every kind for tests, written by PyAV."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from quillgpt.speech.recognition.transcript import SAMPLE_RATE


def tone(seconds: float, frequency: float = 440.0, loudness: float = 0.5) -> NDArray[np.float32]:
    """Return a sine wave at the sample rate of recognizers."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (loudness * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


def record(
    path: Path,
    samples: NDArray[np.float32] | None,
    codec: str = "pcm_s16le",
    *,
    rate: int = SAMPLE_RATE,
    layout: str = "mono",
    tracks: int = 1,
    with_picture: bool = False,
) -> Path:
    """Write samples at `SAMPLE_RATE` as a recording of another kind, and return its path.

    Args:
        path: The file; its ending says what container it is.
        samples: The sound; None: there is none.
        codec: How the sound is encoded.
        rate: The sample rate of the recording.
        layout: Its channels, such as stereo or 5.1; all have the same sound.
        tracks: The number of sound tracks.
        with_picture: Whether it is a video.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10) if with_picture else None
        sounds = [
            container.add_stream(codec, rate=rate, layout=layout) for _ in range(tracks if samples is not None else 0)
        ]
        if video is not None:
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
            for shade in range(10):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, dtype=np.uint8), format="rgb24")
                container.mux(video.encode(picture))
            container.mux(video.encode(None))
        for sound in sounds:
            assert samples is not None
            if not sound.codec_context.is_open:
                sound.codec_context.open()
            frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            size = sound.codec_context.frame_size or 1024
            resampler = av.AudioResampler(format=sound.format.name, layout=layout, rate=rate, frame_size=size)
            position = 0
            for part in resampler.resample(frame) + resampler.resample(None):
                part.pts, position = position, position + part.samples
                container.mux(sound.encode(part))
            container.mux(sound.encode(None))
    return path
