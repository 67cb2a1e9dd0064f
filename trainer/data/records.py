"""What a YouTube-8M record holds: names, sizes, ranges. Imports neither TensorFlow nor Beam.

Two kinds of records, both in TFRecord files (https://research.google.com/youtube8m/download.html):

- video level, tf.Example: `id` (bytes), `labels` (int64 list), one float list a feature,
  `mean_rgb` [1024] and `mean_audio` [128];
- frame level, tf.SequenceExample: `id` and `labels` in the context, one list of byte strings a
  feature, `rgb` [frames, 1024] and `audio` [frames, 128], a frame a second, quantised to uint8.
"""

from dataclasses import dataclass

from trainer.common.errors import UserError

# The key of a video's id: `id` since the 2018 release, `video_id` in the 2017 one and in AudioSet.
ID_KEYS = ("id", "video_id")
LABELS_KEY = "labels"

NUM_CLASSES = 3862  # the 2018 and 2019 releases; the 2017 one has 4716, AudioSet 527
MAX_FRAMES = 300  # later frames are ignored, as in the original

# A quantised value q in 0..255 stands for q * QUANTUM + QUANTISED_ZERO. The original divides by
# 512 here where the exact inverse of its quantiser would not, so this is half a step off.
QUANTUM = 4 / 255
QUANTISED_ZERO = 4 / 512 - 2
MIN_VALUE = QUANTISED_ZERO
MAX_VALUE = 255 * QUANTUM + QUANTISED_ZERO


@dataclass(frozen=True)
class Feature:
    """One feature of a video: its key in the record, and the length of its vector."""

    name: str
    size: int


@dataclass(frozen=True)
class RecordFormat:
    """What to expect of every record of a data set."""

    features: tuple[Feature, ...] = (Feature("mean_rgb", 1024), Feature("mean_audio", 128))
    frame_features: bool = False
    num_classes: int = NUM_CLASSES

    @property
    def width(self) -> int:
        """Length of the concatenated feature vectors."""
        return sum(feature.size for feature in self.features)


def parse_features(names: str, sizes: str) -> tuple[Feature, ...]:
    """Features from the comma-separated flags --feature_names and --feature_sizes.

    Raises:
        UserError: the lists differ in length, a size is no positive number, or a name is missing
            or comes twice.
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
            raise UserError(f"--feature_sizes must be positive whole numbers; got {size!r}.")
    return tuple(Feature(name, int(size)) for name, size in zip(name_list, size_list, strict=True))


def record_format(model_flags: dict) -> RecordFormat:
    """Format of the records that a model with these flags reads."""
    return RecordFormat(
        parse_features(model_flags["feature_names"], model_flags["feature_sizes"]),
        model_flags["frame_features"],
        model_flags["num_classes"],
    )
