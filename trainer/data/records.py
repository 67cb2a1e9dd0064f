"""Format of YouTube-8M records: names, sizes and ranges. Imports neither TensorFlow nor Beam.

There are two kinds of records, both in TFRecord files
(https://research.google.com/youtube8m/download.html):

- Video level, tf.Example: `id` (bytes), `labels` (int64 list) and a float list per feature,
  `mean_rgb` [1024] and `mean_audio` [128].
- Frame level, tf.SequenceExample: `id` and `labels` in the context and a list of byte strings per
  feature, `rgb` [frames, 1024] and `audio` [frames, 128], one frame per second, quantized to uint8.
"""

from dataclasses import dataclass

from trainer.common.errors import UserError

# Keys of the video id: `id` since the 2018 release, `video_id` in the 2017 release and AudioSet.
ID_KEYS = ("id", "video_id")
LABELS_KEY = "labels"

NUM_CLASSES = 3862  # of the 2018 and 2019 releases; 4716 in the 2017 release, 527 in AudioSet
MAX_FRAMES = 300  # later frames are ignored, as in the original

# A quantized value q in 0..255 represents q * QUANTUM + QUANTISED_ZERO. Like the original, this is
# half a step off the exact inverse of its quantizer, because of the division by 512.
QUANTUM = 4 / 255
QUANTISED_ZERO = 4 / 512 - 2
MIN_VALUE = QUANTISED_ZERO
MAX_VALUE = 255 * QUANTUM + QUANTISED_ZERO


@dataclass(frozen=True)
class Feature:
    """A feature of a video: its key in the record and its vector length."""

    name: str
    size: int


@dataclass(frozen=True)
class RecordFormat:
    """Expected content of every record of a dataset."""

    features: tuple[Feature, ...] = (Feature("mean_rgb", 1024), Feature("mean_audio", 128))
    frame_features: bool = False
    num_classes: int = NUM_CLASSES

    @property
    def width(self) -> int:
        """Length of the concatenated feature vectors."""
        return sum(feature.size for feature in self.features)


def parse_features(names: str, sizes: str) -> tuple[Feature, ...]:
    """Parse the comma-separated flags --feature_names and --feature_sizes.

    Raises:
        UserError: the lists differ in length, a size is not a positive integer, or a name is empty
            or repeated.
    """
    name_list = [name.strip() for name in names.split(",")]
    size_list = [size.strip() for size in sizes.split(",")]
    if len(name_list) != len(size_list):
        raise UserError(
            "--feature_names and --feature_sizes must have the same length; got "
            f"{len(name_list)} names ({names!r}) and {len(size_list)} sizes ({sizes!r})."
        )
    if "" in name_list or len(set(name_list)) != len(name_list):
        raise UserError(f"--feature_names must be distinct and not empty; got {names!r}.")
    for size in size_list:
        if not size.isdecimal() or int(size) == 0:
            raise UserError(f"--feature_sizes must be positive integers; got {size!r}.")
    return tuple(Feature(name, int(size)) for name, size in zip(name_list, size_list, strict=True))


def record_format(model_flags: dict) -> RecordFormat:
    """Format of the records that a model with these flags reads."""
    return RecordFormat(
        parse_features(model_flags["feature_names"], model_flags["feature_sizes"]),
        model_flags["frame_features"],
        model_flags["num_classes"],
    )
