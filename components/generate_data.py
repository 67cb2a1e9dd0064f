"""Makes a learnable data set shaped like YouTube-8M, to try the pipeline on.

In its folder: train*.tfrecord, eval*.tfrecord and vocabulary.csv. The same settings give the same
bytes. How a video comes about:

- classes form a tree, and a video has one to three topics: its labels are the topics, drawn with
  a Zipf-like frequency, and all their ancestors;
- a class adds its prototype to the features. Half of the classes have two regimes, whose
  prototypes differ in the sign of their larger part: a linear model sees what is left when the
  two cancel out, a mixture of experts can tell them apart;
- noise and a loudness a video hide it, and the whole is scaled to the spread of real features.
"""

import csv
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trainer.common.command_line import flag, parse
from trainer.common.errors import UserError, without_traceback
from trainer.data.examples import encode_example, encode_sequence_example
from trainer.data.records import (
    MAX_FRAMES,
    MAX_VALUE,
    MIN_VALUE,
    NUM_CLASSES,
    QUANTISED_ZERO,
    QUANTUM,
)
from trainer.data.tfrecord import write_records

VERSION = 2  # increment when the same settings produce different bytes
SETTINGS_FILE = "settings.json"

NUM_TRAIN_SHARDS, NUM_EVAL_SHARDS = 8, 2
NUM_SHARDS = NUM_TRAIN_SHARDS + NUM_EVAL_SHARDS
DEFAULT_VIDEOS, DEFAULT_FRAME_VIDEOS = 12000, 320  # about 57 MB each

RGB_SIZE, AUDIO_SIZE = 1024, 128
NUM_ROOTS = CHILDREN = 8  # classes 0 to 7 are roots; each class has 8 children
TOPICS_SHARE = (0.75, 0.18, 0.07)  # of videos with 1, 2 and 3 topics
SIGNAL = 0.25  # of a label, where noise is 1
SHARED = 0.5  # of a prototype, between the two regimes of a class
FRAME_NOISE = 0.75  # from frame to frame of a video, in units of the features

ID_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
NUM_IDS = len(ID_LETTERS) ** 4


@dataclass(frozen=True)
class DataSet:
    """Makes a learnable, YouTube-8M-shaped data set, unless it is there already.

    Raises:
        UserError: a value is out of its range.
    """

    directory: str = flag("", "Local folder to make, with all that is in it.", "Data set")
    num_videos: int | None = flag(
        None,
        f"Videos in all, a fifth of them for evaluation; none: {DEFAULT_VIDEOS}, or "
        f"{DEFAULT_FRAME_VIDEOS} with --frame_features.",
        "Data set",
    )
    num_classes: int = flag(NUM_CLASSES, "Classes; labels are 0 to this less 1.", "Data set")
    frame_features: bool = flag(
        False,
        "Set: tf.SequenceExamples with quantised rgb and audio frames. "
        "Unset: tf.Examples with mean_rgb and mean_audio.",
        "Data set",
    )
    max_frames: int = flag(MAX_FRAMES, "A video has 1 to this many frames.", "Data set")
    seed: int = flag(0, "Another seed gives other videos of other classes.", "Data set")

    def __post_init__(self):
        if not self.directory or "://" in self.directory:
            raise UserError(f"--directory must name a local folder; got {self.directory!r}.")
        if not NUM_SHARDS <= self.video_count <= NUM_IDS:
            raise UserError(
                f"--num_videos must be {NUM_SHARDS} to {NUM_IDS}; got {self.num_videos}."
            )
        for name, least in (("num_classes", 1), ("max_frames", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} must be at least {least}; got {getattr(self, name)}.")

    @property
    def video_count(self) -> int:
        if self.num_videos is not None:
            return self.num_videos
        return DEFAULT_FRAME_VIDEOS if self.frame_features else DEFAULT_VIDEOS

    @property
    def settings(self) -> dict:
        """What decides the bytes."""
        settings = {**asdict(self), "num_videos": self.video_count, "version": VERSION}
        del settings["directory"]
        return settings


def generate(directory: str, **settings) -> str:
    """Makes the data set, once: a killed call leaves nothing behind in `directory`.

    Args:
        directory: Local folder to make. Where it holds the same data set, nothing is done.
        settings: As the flags of `DataSet`.

    Returns:
        The directory.

    Raises:
        UserError: a setting is out of its range; the directory holds something else; it cannot be
            written.
    """
    data_set = DataSet(directory=str(directory), **settings)
    if not _is_there(data_set):
        try:
            _make(data_set)
        except OSError as error:
            raise UserError(f"Cannot write the data set to {directory}: {error}.") from None
    return data_set.directory


def _is_there(data_set: DataSet) -> bool:
    folder = Path(data_set.directory)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / SETTINGS_FILE).read_text())
    except (OSError, ValueError):
        raise UserError(
            f"{folder} holds something that is no generated data set; expected a folder that is "
            "empty or not there. Choose another --directory."
        ) from None
    if found != data_set.settings:
        raise UserError(
            f"{folder} holds a data set with other settings: expected {data_set.settings}, found "
            f"{found}. Delete it, or choose another --directory."
        )
    return True


def _make(data_set: DataSet):
    """Writes everything to a temporary folder beside the directory, and renames it at the end."""
    folder = Path(data_set.directory).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        unfinished = Path(temporary) / "data"
        unfinished.mkdir()
        _write(data_set, unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not _is_there(data_set):  # else another process was faster
                raise


def _write(data_set: DataSet, folder: Path):
    classes = Classes(data_set.num_classes, data_set.seed)
    train_counts = np.zeros(data_set.num_classes, np.int64)
    total = 0
    for shard in range(NUM_SHARDS):
        name = _shard_name(shard)
        labels, records = _shard(data_set, classes, shard)
        write_records(str(folder / name), records)
        if shard < NUM_TRAIN_SHARDS:
            train_counts += np.bincount(labels[labels >= 0], minlength=data_set.num_classes)
        total += (folder / name).stat().st_size
        print(f"{name}: {len(labels)} videos ({total / 1e6:.0f} MB so far)", flush=True)
    _write_vocabulary(folder / "vocabulary.csv", train_counts)
    (folder / SETTINGS_FILE).write_text(json.dumps(data_set.settings, indent=2) + "\n")


def _shard_name(shard: int) -> str:
    if shard < NUM_TRAIN_SHARDS:
        return f"train{shard:04d}.tfrecord"
    return f"eval{shard - NUM_TRAIN_SHARDS:04d}.tfrecord"


def _shard(data_set: DataSet, classes: "Classes", shard: int) -> tuple[np.ndarray, Iterator[bytes]]:
    """The labels of a shard's videos, int64 [videos, most labels] padded with -1; their records."""
    # A stream of random numbers a shard, and one for the classes.
    rng = np.random.default_rng([data_set.seed, 1 + shard])
    indices = range(shard, data_set.video_count, NUM_SHARDS)
    ids = [video_id(index, data_set.seed) for index in indices]
    labels = classes.draw_labels(rng, len(ids))
    features = classes.draw_features(rng, labels)
    if data_set.frame_features:
        return labels, _frame_records(rng, ids, labels, features, data_set.max_frames)
    return labels, _video_records(ids, labels, features)


def video_id(index: int, seed: int) -> str:
    """Four letters or digits, as in the real records; distinct for each index below NUM_IDS."""
    # Multiplied by a number without a factor in common with NUM_IDS, the indices are only shuffled.
    number = (index * 6364137 + seed * 1442695) % NUM_IDS
    letters = ""
    for _ in range(4):
        number, letter = divmod(number, len(ID_LETTERS))
        letters += ID_LETTERS[letter]
    return letters


class Classes:
    """What the classes of a data set look like, and how often each comes.

    Attributes:
        topic_share: Probability that a topic is this class, [num_classes].
        shared: The part of the prototypes that both regimes have, float32 [num_classes, 1152].
        regime: The part with another sign in each regime; zeros where there is one regime alone.
        scale: Spread of each feature, rgb before audio, float32 [1152].
    """

    def __init__(self, num_classes: int, seed: int):
        rng = np.random.default_rng([seed, 0])
        share = 1 / (np.arange(num_classes) + 3) ** 1.15
        self.topic_share = share / share.sum()
        # Real features are principal components, the first ones with the larger spread.
        self.scale = np.concatenate(
            [_falling(0.7, 0.37, RGB_SIZE), _falling(0.8, 0.5, AUDIO_SIZE)], dtype=np.float32
        )
        shape = num_classes, RGB_SIZE + AUDIO_SIZE
        self.shared = rng.standard_normal(shape, np.float32)
        self.regime = rng.standard_normal(shape, np.float32)
        two_regimes = rng.random(num_classes) < 0.5
        self.shared[two_regimes] *= np.float32(SHARED)
        self.regime[two_regimes] *= np.float32(np.sqrt(1 - SHARED**2))
        self.regime[~two_regimes] = 0

    def draw_labels(self, rng: np.random.Generator, num_videos: int) -> np.ndarray:
        """Labels of each video in descending order, int64 [num_videos, most], padded with -1."""
        most = len(TOPICS_SHARE)
        topics = rng.choice(len(self.topic_share), (num_videos, most), p=self.topic_share)
        num_topics = rng.choice(np.arange(1, most + 1), num_videos, p=TOPICS_SHARE)
        topics[np.arange(most) >= num_topics[:, None]] = -1
        generations = []
        while (topics >= 0).any():
            generations.append(topics)
            topics = np.where(topics < NUM_ROOTS, -1, topics // CHILDREN - 1)
        labels = -np.sort(-np.concatenate(generations, axis=1), axis=1)
        labels[:, 1:][labels[:, 1:] == labels[:, :-1]] = -1
        return labels

    def draw_features(self, rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
        """Mean features of each video, float32 [num_videos, 1152]."""
        features = rng.standard_normal((len(labels), len(self.scale)), np.float32)
        for label in labels.T:  # the first label of each video, the second ...
            sign = np.float32(SIGNAL) * rng.choice(np.float32([-1, 1]), len(label))
            rows = np.flatnonzero(label >= 0)
            some = label[rows]
            features[rows] += np.float32(SIGNAL) * self.shared[some]
            features[rows] += sign[rows, None] * self.regime[some]
        loudness = rng.uniform(0.6, 1.4, (len(labels), 1)).astype(np.float32)
        return _clip(features * loudness * self.scale)


def _falling(first: float, last: float, size: int) -> np.ndarray:
    return last + (first - last) / (1 + np.arange(size) / 16)


def _clip(features: np.ndarray) -> np.ndarray:
    return np.clip(features, np.float32(MIN_VALUE), np.float32(MAX_VALUE))


def _video_records(ids, labels, features) -> Iterator[bytes]:
    for id, label, feature in zip(ids, labels, features, strict=True):
        yield encode_example(
            {
                "id": id,
                "labels": label[label >= 0],
                "mean_rgb": feature[:RGB_SIZE],
                "mean_audio": feature[RGB_SIZE:],
            }
        )


def _frame_records(rng, ids, labels, features, max_frames: int) -> Iterator[bytes]:
    num_frames = rng.integers(1, max_frames, len(ids), endpoint=True)
    for id, label, feature, count in zip(ids, labels, features, num_frames, strict=True):
        noise = rng.standard_normal((count, len(feature)), np.float32)
        frames = quantise(feature + np.float32(FRAME_NOISE) * noise)
        yield encode_sequence_example(
            {"id": id, "labels": label[label >= 0]},
            {"rgb": frames[:, :RGB_SIZE], "audio": frames[:, RGB_SIZE:]},
        )


def quantise(features: np.ndarray) -> np.ndarray:
    """The uint8 whose value, by trainer.data.records, is nearest to each feature."""
    return np.rint((_clip(features) - QUANTISED_ZERO) / QUANTUM).astype(np.uint8)


def _write_vocabulary(path: Path, train_counts: np.ndarray):
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["Index", "TrainVideoCount", "KnowledgeGraphId", "Name"])
        for index, count in enumerate(train_counts):
            rows.writerow([index, count, f"/generated/{index:04d}", class_name(index)])


SUBJECTS = (  # noqa: SIM905
    "Game Vehicle Music Sport Food Animal Fashion Film "
    "Guitar Piano Drum Violin Concert Dance Choir Radio "
    "Car Train Boat Aircraft Bicycle Motorcycle Truck Tractor "
    "Football Basketball Tennis Swimming Running Skiing Boxing Golf "
    "Cake Bread Pasta Soup Salad Coffee Fruit Cheese "
    "Dog Cat Horse Bird Fish Rabbit Insect Reptile "
    "Dress Shoe Hair Jewellery Watch Hat Bag Make-up "
    "Cartoon Comedy Drama Trailer Camera Studio Theatre News"
).split()
KINDS = (  # noqa: SIM905
    "lesson review repair show history competition collection design festival museum school shop "
    "club tour training documentary interview award factory market workshop magazine video photo "
    "exhibition song advert quiz journey championship experiment restoration comparison test "
    "guide project story blog channel course demonstration launch parade party performance record "
    "rescue science season series sketch skill stunt technique tradition transport trick tutorial "
    "unboxing world"
).split()


def class_name(index: int) -> str:
    """A name for a class; each class has another."""
    kind, subject = divmod(index, len(SUBJECTS))
    if kind == 0:
        return SUBJECTS[subject]
    again, kind = divmod(kind - 1, len(KINDS))
    name = f"{SUBJECTS[subject]} {KINDS[kind]}"
    return f"{name} {again + 1}" if again else name


def main(argv: list[str]):
    """The command `python -m components.generate_data`."""
    data_set = parse(DataSet, argv)
    generate(**asdict(data_set))
    print(f"The data set is in {data_set.directory}: train*.tfrecord, eval*.tfrecord.")


if __name__ == "__main__":
    with without_traceback():
        main(sys.argv)
