"""Generated datasets for the benchmarks."""

import os

from components.generate_data import generate
from pipeline.paths import ROOT

FOLDER = ROOT / ".cache"

# Large enough that filling the shuffle buffer takes a small part of the time.
# A fifth is not read.
NUM_VIDEOS, NUM_FRAME_LEVEL_VIDEOS = 50_000, 1000  # about 235 and 180 MB

VIDEO_LEVEL = {"feature_names": "mean_rgb,mean_audio", "feature_sizes": "1024,128"}
FRAME_LEVEL = {"feature_names": "rgb,audio", "feature_sizes": "1024,128", "frame_features": True}


def training_shards(config) -> list[str]:
    """Return the training shards; frame-level ones repeatedly, for the same reason."""
    from trainer.common import storage

    files = storage.glob(config.train_data_pattern)
    return files * 32 if config.record_format.frame_features else files


def data_flags(frame_features: bool) -> dict:
    """Return the trainer's flags for generated shards, which the first call creates."""
    name, videos = ("frame", NUM_FRAME_LEVEL_VIDEOS) if frame_features else ("video", NUM_VIDEOS)
    folder = FOLDER / f"benchmark-{name}"
    generate(str(folder), num_videos=videos, frame_features=frame_features)
    flags = FRAME_LEVEL if frame_features else VIDEO_LEVEL
    return {**flags, "train_data_pattern": os.path.join(folder, "train*.tfrecord")}
