"""Generate a synthetic dataset in YouTube-8M's format, to try the pipeline.

The folder contains train*.tfrecord, eval*.tfrecord and vocabulary.csv. The same settings produce
the same bytes. The model of the data:

- Classes form a tree. A video has one to three topics with Zipf-like frequencies; its labels are
  the topics and all their ancestors.
- Each label adds the prototype of its class to the features. Half of the classes have two modes,
  whose prototypes differ in the sign of their larger component. A linear model learns only the
  shared component, but a mixture of experts can separate the modes.
- The features are scaled by a random amplitude per video, and noise is added. Their standard
  deviations are similar to those of the real features.
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
NUM_ROOTS = NUM_CHILDREN = 8  # classes 0 to 7 are roots; each class has 8 children
TOPIC_COUNT_PROBABILITIES = (0.75, 0.18, 0.07)  # of 1, 2 and 3 topics
SIGNAL = 0.25  # amplitude of a label relative to the noise
SHARED = 0.5  # amplitude of the component shared by the two modes of a class
FRAME_NOISE = 0.75  # standard deviation between the frames of a video

ID_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
NUM_IDS = len(ID_CHARACTERS) ** 4


@dataclass(frozen=True)
class Dataset:
    """Generate a synthetic dataset in YouTube-8M's format, unless it exists.

    Raises:
        UserError: A value is out of range.
    """

    directory: str = flag("", "Local output folder.", "Dataset")
    num_videos: int | None = flag(
        None,
        f"Number of videos, a fifth of them for evaluation. Default: {DEFAULT_VIDEOS}, or "
        f"{DEFAULT_FRAME_VIDEOS} with --frame_features.",
        "Dataset",
    )
    num_classes: int = flag(
        NUM_CLASSES, "Number of classes. Class ids run from 0 to num_classes - 1.", "Dataset"
    )
    frame_features: bool = flag(
        False,
        "Write tf.SequenceExamples with quantized rgb and audio frames. "
        "By default: tf.Examples with mean_rgb and mean_audio.",
        "Dataset",
    )
    max_frames: int = flag(MAX_FRAMES, "Maximum number of frames per video.", "Dataset")
    seed: int = flag(0, "Random seed of the classes and videos.", "Dataset")

    def __post_init__(self):
        if not self.directory or "://" in self.directory:
            raise UserError(f"--directory must name a local folder; got {self.directory!r}.")
        if not NUM_SHARDS <= self.video_count <= NUM_IDS:
            raise UserError(
                f"--num_videos must be {NUM_SHARDS} to {NUM_IDS}; got {self.num_videos}."
            )
        for name, minimum in (("num_classes", 1), ("max_frames", 1), ("seed", 0)):
            if getattr(self, name) < minimum:
                raise UserError(f"--{name} must be at least {minimum}; got {getattr(self, name)}.")

    @property
    def video_count(self) -> int:
        if self.num_videos is not None:
            return self.num_videos
        return DEFAULT_FRAME_VIDEOS if self.frame_features else DEFAULT_VIDEOS

    @property
    def settings(self) -> dict:
        """The settings that determine the bytes."""
        settings = {**asdict(self), "num_videos": self.video_count, "version": VERSION}
        del settings["directory"]
        return settings


def generate(directory: str, **settings) -> str:
    """Generate a dataset, unless `directory` already has one with the same settings.

    The directory appears only when it is complete.

    Args:
        directory: Local output folder.
        settings: As the flags of `Dataset`.

    Returns:
        The directory.

    Raises:
        UserError: A setting is out of range, the directory has other content, or it cannot be
            written.
    """
    dataset = Dataset(directory=str(directory), **settings)
    if not _exists(dataset):
        try:
            _create(dataset)
        except OSError as error:
            raise UserError(f"Cannot write the dataset to {directory}: {error}.") from None
    return dataset.directory


def _exists(dataset: Dataset) -> bool:
    folder = Path(dataset.directory)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / SETTINGS_FILE).read_text())
    except (OSError, ValueError):
        raise UserError(
            f"{folder} is not a generated dataset; expected an empty or missing folder. "
            "Choose another --directory."
        ) from None
    if found != dataset.settings:
        raise UserError(
            f"{folder} has a dataset with other settings: expected {dataset.settings}, found "
            f"{found}. Delete it, or choose another --directory."
        )
    return True


def _create(dataset: Dataset):
    """Write to a temporary folder next to the directory, and rename it at the end."""
    folder = Path(dataset.directory).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        unfinished = Path(temporary) / "data"
        unfinished.mkdir()
        _write(dataset, unfinished)
        try:
            unfinished.rename(folder)
        except OSError:
            if not _exists(dataset):  # otherwise another process was faster
                raise


def _write(dataset: Dataset, folder: Path):
    classes = Classes(dataset.num_classes, dataset.seed)
    train_counts = np.zeros(dataset.num_classes, np.int64)
    total = 0
    for shard in range(NUM_SHARDS):
        name = _shard_name(shard)
        labels, records = _shard(dataset, classes, shard)
        write_records(str(folder / name), records)
        if shard < NUM_TRAIN_SHARDS:
            train_counts += np.bincount(labels[labels >= 0], minlength=dataset.num_classes)
        total += (folder / name).stat().st_size
        print(f"{name}: {len(labels)} videos ({total / 1e6:.0f} MB so far)", flush=True)
    _write_vocabulary(folder / "vocabulary.csv", train_counts)
    (folder / SETTINGS_FILE).write_text(json.dumps(dataset.settings, indent=2) + "\n")


def _shard_name(shard: int) -> str:
    if shard < NUM_TRAIN_SHARDS:
        return f"train{shard:04d}.tfrecord"
    return f"eval{shard - NUM_TRAIN_SHARDS:04d}.tfrecord"


def _shard(dataset: Dataset, classes: "Classes", shard: int) -> tuple[np.ndarray, Iterator[bytes]]:
    """Return labels, int64 [num_videos, max_labels] padded with -1, and records of a shard."""
    # Each shard has its own random stream, and the classes have another one.
    rng = np.random.default_rng([dataset.seed, 1 + shard])
    indices = range(shard, dataset.video_count, NUM_SHARDS)
    ids = [video_id(index, dataset.seed) for index in indices]
    labels = classes.draw_labels(rng, len(ids))
    features = classes.draw_features(rng, labels)
    if dataset.frame_features:
        return labels, _frame_records(rng, ids, labels, features, dataset.max_frames)
    return labels, _video_records(ids, labels, features)


def video_id(index: int, seed: int) -> str:
    """Return an id of four letters or digits, distinct for each index below NUM_IDS."""
    # The factor is coprime to NUM_IDS, so the multiplication permutes the indices.
    number = (index * 6364137 + seed * 1442695) % NUM_IDS
    characters = ""
    for _ in range(4):
        number, index = divmod(number, len(ID_CHARACTERS))
        characters += ID_CHARACTERS[index]
    return characters


class Classes:
    """Frequencies and prototypes of the classes of a dataset.

    Attributes:
        topic_probabilities: Probability of each class as a topic, [num_classes].
        shared: Component of the prototypes shared by both modes, float32 [num_classes, 1152].
        mode: Component with opposite signs in the two modes; zeros for classes with one mode.
        scale: Standard deviation of each feature, rgb before audio, float32 [1152].
    """

    def __init__(self, num_classes: int, seed: int):
        rng = np.random.default_rng([seed, 0])
        share = 1 / (np.arange(num_classes) + 3) ** 1.15
        self.topic_probabilities = share / share.sum()
        # Real features are principal components, in descending order of variance.
        self.scale = np.concatenate(
            [_falling(0.7, 0.37, RGB_SIZE), _falling(0.8, 0.5, AUDIO_SIZE)], dtype=np.float32
        )
        shape = num_classes, RGB_SIZE + AUDIO_SIZE
        self.shared = rng.standard_normal(shape, np.float32)
        self.mode = rng.standard_normal(shape, np.float32)
        two_modes = rng.random(num_classes) < 0.5
        self.shared[two_modes] *= np.float32(SHARED)
        self.mode[two_modes] *= np.float32(np.sqrt(1 - SHARED**2))
        self.mode[~two_modes] = 0

    def draw_labels(self, rng: np.random.Generator, num_videos: int) -> np.ndarray:
        """Draw the labels of each video, int64 [num_videos, max_labels], padded with -1."""
        max_topics = len(TOPIC_COUNT_PROBABILITIES)
        topics = rng.choice(
            len(self.topic_probabilities), (num_videos, max_topics), p=self.topic_probabilities
        )
        num_topics = rng.choice(
            np.arange(1, max_topics + 1), num_videos, p=TOPIC_COUNT_PROBABILITIES
        )
        topics[np.arange(max_topics) >= num_topics[:, None]] = -1
        generations = []
        while (topics >= 0).any():
            generations.append(topics)
            topics = np.where(topics < NUM_ROOTS, -1, topics // NUM_CHILDREN - 1)
        labels = -np.sort(-np.concatenate(generations, axis=1), axis=1)
        labels[:, 1:][labels[:, 1:] == labels[:, :-1]] = -1
        return labels

    def draw_features(self, rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
        """Draw the mean features of each video, float32 [num_videos, 1152]."""
        features = rng.standard_normal((len(labels), len(self.scale)), np.float32)
        for label in labels.T:  # the first label of each video, the second, ...
            sign = np.float32(SIGNAL) * rng.choice(np.float32([-1, 1]), len(label))
            rows = np.flatnonzero(label >= 0)
            some = label[rows]
            features[rows] += np.float32(SIGNAL) * self.shared[some]
            features[rows] += sign[rows, None] * self.mode[some]
        amplitude = rng.uniform(0.6, 1.4, (len(labels), 1)).astype(np.float32)
        return _clip(features * amplitude * self.scale)


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
        frames = quantize(feature + np.float32(FRAME_NOISE) * noise)
        yield encode_sequence_example(
            {"id": id, "labels": label[label >= 0]},
            {"rgb": frames[:, :RGB_SIZE], "audio": frames[:, RGB_SIZE:]},
        )


def quantize(features: np.ndarray) -> np.ndarray:
    """Quantize features to uint8, the inverse of trainer.data.records."""
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
    """Return a distinct name for each class."""
    kind, subject = divmod(index, len(SUBJECTS))
    if kind == 0:
        return SUBJECTS[subject]
    again, kind = divmod(kind - 1, len(KINDS))
    name = f"{SUBJECTS[subject]} {KINDS[kind]}"
    return f"{name} {again + 1}" if again else name


def main(argv: list[str]):
    """Run `python -m components.generate_data`."""
    dataset = parse(Dataset, argv)
    generate(**asdict(dataset))
    print(f"The dataset is in {dataset.directory}: train*.tfrecord, eval*.tfrecord.")


if __name__ == "__main__":
    with without_traceback():
        main(sys.argv)
