"""Small data sets and flags that the trainer's tests share."""

from pathlib import Path

import numpy as np
import pytest

from trainer.config import TrainConfig
from trainer.data.examples import encode_example, encode_sequence_example
from trainer.data.tfrecord import write_records

NUM_CLASSES = 5


@pytest.fixture(scope="session")
def write_videos():
    """write_videos(path, videos, **sizes): a shard of (id, labels, features) videos.

    Features are {name: vector} at video level, {name: uint8 [frames, size]} at frame level.
    """

    def write(path, videos):
        records = []
        for video_id, labels, features in videos:
            context = {"id": video_id.encode(), "labels": np.array(labels, np.int64)}
            if all(np.ndim(feature) == 1 for feature in features.values()):
                records.append(encode_example(context | features))
            else:
                records.append(encode_sequence_example(context, features))
        write_records(str(path), records)
        return str(path)

    return write


@pytest.fixture(scope="session")
def video_shards(tmp_path_factory, write_videos) -> str:
    """Glob of 5 shards with 37 learnable video-level videos in all, one of them without labels.

    A video's labels are the 2 classes whose direction lies nearest to its features.
    """
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(1)
    directions = rng.normal(size=[5, NUM_CLASSES])
    for shard, size in enumerate((9, 1, 12, 8, 7)):
        videos = []
        for i in range(size):
            vector = rng.normal(size=5)
            labels = np.argsort(vector @ directions)[-2:] if (shard, i) != (2, 3) else []
            features = {"rgb": vector[:3], "audio": vector[3:]}
            videos.append((f"v{shard}-{i}", labels, features))
        write_videos(folder / f"train{shard}.tfrecord", videos)
    return f"{folder}/train*.tfrecord"


@pytest.fixture(scope="session")
def frame_shards(tmp_path_factory, write_videos) -> str:
    """Glob of 3 shards with 14 learnable frame-level videos in all, of 1 to 310 frames.

    Frames vary around what is typical of a video's only label.
    """
    folder = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(2)
    typical = rng.integers(0, 256, [NUM_CLASSES, 5])
    num_frames = iter((1, 2, 300, 310, 5, 7, 299, 3, 1, 30, 9, 12, 301, 4))
    for shard, size in enumerate((5, 3, 6)):
        videos = []
        for i in range(size):
            label = i % NUM_CLASSES
            frames = typical[label] + rng.integers(-30, 31, [next(num_frames), 5])
            frames = np.clip(frames, 0, 255).astype(np.uint8)
            features = {"rgb": frames[:, :3], "audio": frames[:, 3:]}
            videos.append((f"f{shard}-{i}", [label], features))
        write_videos(folder / f"train{shard}.tfrecord", videos)
    return f"{folder}/train*.tfrecord"


# A small training run on `video_shards`.
SMALL = {
    "feature_names": "rgb,audio",
    "feature_sizes": "3,2",
    "num_classes": NUM_CLASSES,
    "batch_size": 8,
    "num_epochs": 2,
    "num_readers": 2,
}


@pytest.fixture
def make_config(tmp_path, video_shards):
    """make_config(**flags): a small training run on `video_shards` in tmp_path / "model"."""

    def make(**flags) -> TrainConfig:
        files = {"train_data_pattern": video_shards, "train_dir": str(tmp_path / "model")}
        return TrainConfig(**SMALL | files | flags)

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory, video_shards) -> str:
    """The train_dir of a MoeModel that was trained for 10 steps. Not to be changed."""
    from trainer.training.loop import train

    folder = str(tmp_path_factory.mktemp("trained") / "model")
    files = {"train_data_pattern": video_shards, "train_dir": folder}
    train(TrainConfig(**SMALL | files | {"model": "MoeModel", "base_learning_rate": 0.1}))
    return folder


@pytest.fixture
def save_logistic_model(tmp_path, make_config):
    """save_logistic_model(probabilities): a train_dir whose model says that of every video."""

    def save(probabilities) -> str:
        from trainer.data.input_pipeline import Position
        from trainer.models import registry
        from trainer.run_dir import checkpoints

        config = make_config(num_classes=len(probabilities))
        model = registry.create(config.model_flags)
        p = np.asarray(probabilities, np.float64)
        for variable in model.trainable_variables:
            variable.assign(
                np.zeros(variable.shape) if len(variable.shape) == 2 else np.log(p / (1 - p))
            )
        checkpoints.keep_model_flags(config.train_dir, config.model_flags)
        variables = registry.variables(model)
        checkpoints.save(config.train_dir, variables, checkpoints.State(7, Position(), "", {}), 1)
        return config.train_dir

    return save


@pytest.fixture
def weights():
    """weights(train_dir): {name: array} of all that the newest checkpoint holds, bit for bit."""

    def read(train_dir) -> dict[str, np.ndarray]:
        import tensorflow as tf

        newest = sorted((Path(train_dir) / "checkpoints").glob("step-*"))[-1]
        reader = tf.train.load_checkpoint(str(newest / "variables"))
        names = sorted(reader.get_variable_to_shape_map())
        names.remove("_CHECKPOINTABLE_OBJECT_GRAPH")
        return {name: reader.get_tensor(name) for name in names}

    return read
