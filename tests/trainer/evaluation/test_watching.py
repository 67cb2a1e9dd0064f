"""Watching a training run: each new checkpoint is evaluated once."""

from glob import glob

import pytest
import tensorflow as tf

from trainer import evaluate as command
from trainer.common.errors import UserError
from trainer.evaluation import evaluator, watching
from trainer.training.loop import train


def test_every_new_checkpoint_is_evaluated_once(make_config, video_shards, monkeypatch, capsys):
    config = make_config(max_steps=2)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:  # after one wait in which nothing happened
            train(make_config(max_steps=4))
        if len(waits) == 3:
            raise KeyboardInterrupt

    train(config)
    monkeypatch.setattr(watching.time, "sleep", sleep)
    flags = [f"--train_dir={config.train_dir}", f"--eval_data_pattern={video_shards}", "--watch"]
    command.main(["evaluate", *flags])
    lines = [line for line in capsys.readouterr().out.splitlines() if " | GAP: " in line]
    assert [line.split(" |")[0] for line in lines if "videos: 37" in line] == ["step 2", "step 4"]

    (events,) = glob(f"{config.train_dir}/eval/events*")
    written = {
        (event.step, value.tag): float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(events)
        for value in event.summary.value
    }
    metrics = evaluator.evaluate(config.train_dir, video_shards).metrics
    assert {step for step, _ in written} == {2, 4}
    for name in ("gap", "hit_at_1", "perr", "map", "loss"):
        assert written[4, f"eval/{name}"] == pytest.approx(metrics[name], rel=1e-5)


def test_remote_train_dir_is_an_error():
    with pytest.raises(UserError, match="needs a local or mounted train_dir; got 'gs://b/x'"):
        next(watching.watch("gs://b/x", "data"))
