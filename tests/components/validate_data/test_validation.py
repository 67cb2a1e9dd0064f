import json
import re
import subprocess
import sys

import numpy as np
import pytest

from components.validate_data import pipeline
from components.validate_data.__main__ import main
from components.validate_data.references import Settings
from components.validate_data.shard import scan
from components.validate_data.validation import DEFAULT, validate
from trainer.common import storage
from trainer.common.errors import UserError
from trainer.data import manifest
from trainer.data.examples import encode_example
from trainer.data.records import Feature, RecordFormat
from trainer.data.tfrecord import write_records

FORMAT = RecordFormat((Feature("rgb", 2),), num_classes=10)


def video(video_id: str, labels=(1, 3), rgb=(0.5, 1.0)) -> bytes:
    return encode_example({"id": video_id, "labels": list(labels), "rgb": list(rgb)})


@pytest.fixture
def data(tmp_path):
    """Two files of train with 3 videos, one of eval with 1."""
    write_records(str(tmp_path / "train0"), [video("a"), video("b", rgb=[-0.5, 0.0])])
    write_records(str(tmp_path / "train1"), [video("c", labels=[9], rgb=[1.5, -1.0])])
    write_records(str(tmp_path / "eval0"), [video("d", rgb=[0.0, -0.5])])
    return tmp_path


def run(data, record_format=FORMAT, settings=DEFAULT, **inputs) -> str:
    inputs = inputs or {"train": f"{data}/train*", "eval": f"{data}/eval*"}
    return validate(inputs, str(data / "out"), record_format, settings=settings)


def read(data, name: str) -> dict:
    return json.loads((data / "out" / name).read_text())


def found(data) -> list[tuple]:
    rows = read(data, "anomalies.json")["anomalies"]
    return [(row["kind"], row["split"], row["count"]) for row in rows]


def test_good_data_passes(data):
    fingerprint = run(data)
    statistics = read(data, "statistics.json")
    assert statistics["fingerprint"] == fingerprint
    assert len(fingerprint) == 64
    train, evaluation = statistics["splits"]["train"], statistics["splits"]["eval"]
    assert [file["records"] for file in train["files"]] == [2, 1]
    assert (train["videos"], evaluation["videos"]) == (3, 1)
    assert train["labels"] == [0, 2, 0, 2, 0, 0, 0, 0, 0, 1]
    assert train["labels_per_video"] == [0, 1, 2]
    assert train["features"]["rgb"]["mean"] == [0.5, 0]
    assert evaluation["features"]["rgb"]["zeros"] == [1, 0]
    assert read(data, "anomalies.json")["passed"]
    assert found(data) == [("empty_class", "train", 7)]
    assert "No problems in" in (data / "out" / "report.html").read_text()


def test_a_manifest_lists_the_files_of_each_split(data):
    run(data)
    path = str(data / "out" / "train.manifest.json")
    (data / "train9").write_bytes((data / "train0").read_bytes())  # a later file is not read
    assert manifest.expand(path) == [str(data / "train0"), str(data / "train1")]
    assert [file.num_records for file in manifest.read(path).files] == [2, 1]
    assert manifest.read(path).files[0].checksum == manifest.checksum(str(data / "train0"))


def test_a_file_that_changes_during_the_validation_fails_it(data, monkeypatch):
    def scan_and_change(shard, *arguments):
        ids = scan(shard, *arguments)
        write_records(str(data / "train1"), [video("other")])
        return ids

    monkeypatch.setattr(pipeline, "scan", scan_and_change)
    with pytest.raises(UserError, match=r"1 of the 2 files in .* changed .*train1"):
        run(data)


def test_the_fingerprint_is_of_the_records_not_of_their_files(data):
    before = run(data)
    (data / "train0").rename(data / "train2")  # read after train1 from now on
    assert run(data) == before
    records = (data / "train2").read_bytes()
    write_records(str(data / "train2"), [video("a"), video("b", labels=[2])])
    changed = run(data)
    assert changed != before
    (data / "train2").write_bytes(records)
    assert run(data) == before
    swapped = run(data, train=f"{data}/eval*", eval=f"{data}/train*")
    assert swapped not in (before, changed)


def test_all_that_is_wrong_is_told_at_once(data):
    write_records(str(data / "train2"), [video("e"), video("f", labels=[10])])
    write_records(str(data / "eval1"), [video("a")])
    (data / "eval2").write_text("not a record")
    with pytest.raises(UserError) as error:
        run(data)
    message = str(error.value)
    assert f"{data}/train2, record 2: label 10 is out of range: expected 0 to 9" in message
    assert f"{data}/eval2, record 1: not a TFRecord file" in message
    assert f"video 'a' of 'eval' is also in 'train': {data}/train0, record 1" in message
    assert str(data / "out" / "report.html") in message
    assert not read(data, "anomalies.json")["passed"]
    assert [kind for kind, _, _ in found(data)][:3] == [
        "not_tfrecord",
        "label_out_of_range",
        "leak",
    ]
    statistics = read(data, "statistics.json")["splits"]  # the good records all the same
    assert (statistics["train"]["videos"], statistics["eval"]["videos"]) == (4, 2)


def test_warnings_pass(data):
    write_records(str(data / "train2"), [video("a")])
    write_records(str(data / "test0"), [video("t", labels=[])])
    run(data, train=f"{data}/train*", test=f"{data}/test*")
    assert found(data)[:2] == [("duplicate", "train", 1), ("no_labels", "test", 1)]
    strict = Settings(fail_on="warning")
    with pytest.raises(UserError, match="Splits without labels"):
        run(data, settings=strict, train=f"{data}/train*", test=f"{data}/test*")


def test_never_failing(data):
    (data / "eval1").write_text("not a record")
    run(data, settings=Settings(fail_on="never"))
    assert ("not_tfrecord", "eval", 1) in found(data)


def test_a_file_without_a_good_record_still_makes_a_report(data):
    (data / "eval0").write_bytes(b"")
    with pytest.raises(UserError, match="eval0: the file has no records"):
        run(data)
    assert "Failed" in (data / "out" / "report.html").read_text()


@pytest.mark.parametrize("frame_features", [False, True])
def test_data_of_another_kind_still_makes_a_report(data, frame_features):
    other = RecordFormat((Feature("sound", 2),), frame_features, num_classes=10)
    with pytest.raises(UserError, match=r"no (video|frame)-level feature 'sound'"):
        run(data, other)
    assert read(data, "statistics.json")["splits"]["train"]["videos"] == 0
    assert "Validation failed" in (data / "out" / "report.html").read_text()


def test_a_file_that_vanishes_is_a_finding(data, monkeypatch):
    monkeypatch.setattr(storage, "glob", lambda _: [f"{data}/train0", f"{data}/gone"])
    with pytest.raises(UserError, match=r"Unreadable files: .*gone"):
        run(data)
    assert read(data, "statistics.json")["splits"]["train"]["videos"] == 2


def test_an_earlier_result_is_not_taken_for_this_one(data):
    run(data)
    with pytest.raises(UserError, match="missing"):
        run(data, train=f"{data}/train*,{data}/missing*", eval=f"{data}/eval*")
    with pytest.raises(UserError, match="no video-level feature 'sound'"):
        run(data, RecordFormat((Feature("sound", 2),), num_classes=10))
    assert not read(data, "anomalies.json")["passed"]


def test_where_nothing_can_be_written(data):
    (data / "out").write_text("a file")
    with pytest.raises(UserError, match="out"):
        run(data)


def test_an_inferred_schema_is_enforced_when_given(data, tmp_path):
    run(data)
    text = (data / "out" / "schema.pbtxt").read_text()
    (tmp_path / "schema.pbtxt").write_text(text)
    settings = Settings(schema=str(tmp_path / "schema.pbtxt"))
    run(data, settings=settings)
    (tmp_path / "schema.pbtxt").write_text(text.replace("max: 9", "max: 8"))
    with pytest.raises(UserError, match="'labels' must be at most 8, but its max is 9"):
        run(data, settings=settings)
    (tmp_path / "schema.pbtxt").write_text("nonsense")
    with pytest.raises(UserError, match="must be a tensorflow-metadata Schema"):
        run(data, settings=settings)


def test_drift_from_an_earlier_run(data, tmp_path):
    many = [video(f"v{i}", labels=[1 + i % 2], rgb=[i / 500, 0.333 - i / 500]) for i in range(500)]
    other = [video(f"w{i}", labels=[2], rgb=[i / 500 + 0.5, 0.333 - i / 500]) for i in range(500)]
    write_records(str(data / "train0"), many)
    (data / "train1").unlink()
    run(data, train=f"{data}/train*")
    (data / "out" / "statistics.json").rename(tmp_path / "baseline.json")
    settings = Settings(baseline=str(tmp_path / "baseline.json"))
    run(data, settings=settings, train=f"{data}/train*")
    assert {kind for kind, _, _ in found(data)} == {"empty_class"}
    write_records(str(data / "train0"), other)
    run(data, settings=settings, train=f"{data}/train*")
    assert ("label_drift", "train", 2) in found(data)
    assert ("feature_drift", "train", 1) in found(data)
    assert "train compared with train (baseline)" in (data / "out" / "report.html").read_text()


def test_a_split_that_the_baseline_lacks_is_compared_with_its_training_split(data, tmp_path):
    run(data, train=f"{data}/train*")
    (data / "out" / "statistics.json").rename(tmp_path / "baseline.json")
    settings = Settings(baseline=str(tmp_path / "baseline.json"))
    run(data, settings=settings, serving=f"{data}/train*")
    assert "serving compared with train (baseline)" in (data / "out" / "report.html").read_text()


def test_drift_alone_fails_a_check_of_served_inputs(data, tmp_path):
    many = [video(f"v{i}", rgb=[i / 500, 0.333 - i / 500]) for i in range(500)]
    other = [video("same id", labels=[], rgb=[i / 500 + 0.5, 0.333]) for i in range(500)]
    write_records(str(data / "train0"), many)
    run(data, train=f"{data}/train0")
    (data / "out" / "statistics.json").rename(tmp_path / "baseline.json")
    settings = Settings(fail_on="drift", baseline=str(tmp_path / "baseline.json"))
    write_records(str(data / "served"), many[:400])
    run(data, settings=settings, serving=f"{data}/served")
    write_records(str(data / "served"), other)
    with pytest.raises(UserError, match=r"Feature drift: .*served") as error:
        run(data, settings=settings, serving=f"{data}/served")
    assert "Duplicate" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"splits": {"train": {}}}', '{"splits": 3}'])
def test_a_baseline_that_is_none(data, tmp_path, text):
    (tmp_path / "baseline.json").write_text(text)
    with pytest.raises(UserError, match="of an earlier run"):
        run(data, settings=Settings(baseline=str(tmp_path / "baseline.json")))


def test_the_vocabulary_names_classes_and_counts(data, tmp_path):
    rows = [
        "Index,TrainVideoCount,KnowledgeGraphId,Name",
        "3,70,/m/3,<b>Car</b>",
        "1,900,/m/1,Game",
    ]
    (tmp_path / "vocabulary.csv").write_text("\n".join(rows))
    run(data, settings=Settings(vocabulary=str(tmp_path / "vocabulary.csv")))
    html = (data / "out" / "report.html").read_text()
    assert "Game: 2 of 900" in html
    assert r"\u003cb\u003eCar\u003c/b\u003e: 2 of 70" in html
    assert "<b>Car" not in html


def test_a_setting_that_is_none():
    with pytest.raises(UserError, match="one of error, warning, drift, never; got 'sometimes'"):
        Settings(fail_on="sometimes")


def test_strings_of_the_data_are_text_in_the_report(data):
    write_records(str(data / "train2"), [video("<script>alert(1)</script>", labels=[10])])
    with pytest.raises(UserError):
        run(data)
    html = (data / "out" / "report.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_the_report_needs_no_network(data):
    run(data)
    html = (data / "out" / "report.html").read_text()
    without_scripts = re.sub(r"(?s)<script[^>]*>.*?</script>", "", html)
    assert "http" not in without_scripts and "src=" not in without_scripts
    assert not re.search(r"<script[^>]*src", html)


def test_the_command(data, capsys):
    flags = ["--feature_names=rgb", "--feature_sizes=2", "--num_classes=10"]
    inputs = [f"--input=train={data}/train*", f"--input=eval={data}/eval*"]
    main([*inputs, *flags, f"--output_dir={data}/out"])
    assert capsys.readouterr().out.strip() == read(data, "statistics.json")["fingerprint"]


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--input=train"], "--input must be NAME=GLOB, with distinct names; got train"),
        (["--input=a=x", "--input=a=y"], "with distinct names; got a=x, a=y"),
        (["--input=train={data}/train*", "--runer=Flink"], "validate_data nor to Beam: --runer"),
        (["--input=train={data}/train*", "Flink"], "--name or --name=value; got 'Flink'"),
        (["--input=train={data}/nothing*"], "nothing"),
        (["--input=train={data}/train*", "--runner=Spork"], "Unexpected pipeline runner: Spork"),
        (
            ["--input=train={data}/train*", "--runner=DataflowRunner"],
            "DataflowRunner also needs, for example: --project=my-project",
        ),
        (["--input=train={data}/train*", "--max_label_js=-1"], "must be 0 or more; got -1"),
    ],
)
def test_a_wrong_command_is_told(data, flags, words):
    flags = [flag.format(data=data) for flag in flags]
    with pytest.raises(SystemExit) as error:
        main([*flags, f"--output_dir={data}/out"])
    assert words in str(error.value)
    assert not (data / "out").exists()


def test_a_runner_that_cannot_start_is_told(data):
    flags = [f"--input=train={data}/train*", f"--output_dir={data}/out"]
    with pytest.raises(SystemExit, match=r"^error: Beam's FlinkRunner failed: .*/no\.jar"):
        main([*flags, "--runner=FlinkRunner", "--flink_job_server_jar=/no.jar"])


def test_help_loads_no_beam():
    code = "import sys, components.validate_data.__main__; print('apache_beam' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "splits, record_format, warnings",
    [
        (
            {"train": "yt8m2018/video/validate00[0-7]*", "eval": "yt8m2018/video/validate00[89]*"},
            RecordFormat(),
            [],
        ),
        (
            {"validate": "yt8m2017/video/validate*", "test": "yt8m2017/video/test*"},
            RecordFormat(num_classes=4716),
            ["no_labels"],
        ),
        (
            {"one": "yt8m2018/frame/*"},
            RecordFormat((Feature("rgb", 1024), Feature("audio", 128)), frame_features=True),
            [],
        ),
        (
            {"train": "audioset/bal_train/*0[0-7]*", "eval": "audioset/bal_train/*0[89]*"},
            RecordFormat((Feature("audio_embedding", 128),), frame_features=True, num_classes=527),
            [],
        ),
    ],
)
def test_real_data_passes(real_data, tmp_path, splits, record_format, warnings):
    inputs = {name: f"{real_data}/{pattern}" for name, pattern in splits.items()}
    validate(inputs, str(tmp_path), record_format)
    rows = json.loads((tmp_path / "anomalies.json").read_text())["anomalies"]
    assert [row["kind"] for row in rows if row["severity"] != "info"] == warnings


def test_real_statistics_are_numpys(real_data, tmp_path):
    import tensorflow as tf

    pattern = f"{real_data}/yt8m2018/video/validate000[0-3].tfrecord"
    validate({"train": pattern}, str(tmp_path), RecordFormat())
    got = json.loads((tmp_path / "statistics.json").read_text())["splits"]["train"]
    spec = {
        "mean_rgb": tf.io.FixedLenFeature([1024], tf.float32),
        "labels": tf.io.VarLenFeature(tf.int64),
    }
    files = tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(pattern))).batch(10_000)
    (batch,) = files.map(lambda records: tf.io.parse_example(records, spec))
    rgb = batch["mean_rgb"].numpy().astype(np.float64)
    assert got["videos"] == len(rgb)
    assert got["features"]["mean_rgb"]["mean"] == pytest.approx(rgb.mean(axis=0), abs=1e-7)
    assert got["features"]["mean_rgb"]["std"] == pytest.approx(rgb.std(axis=0), rel=1e-6)
    labels = np.bincount(batch["labels"].values.numpy(), minlength=3862)
    assert got["labels"] == labels.tolist()
    median = np.quantile(rgb, 0.5, axis=0, method="lower")
    assert got["features"]["mean_rgb"]["quantiles"]["0.5"] == pytest.approx(
        median, rel=0.021, abs=0.001
    )


def test_data_and_reports_in_cloud_storage(gcs_bucket):
    write_records(f"{gcs_bucket}/data/train0", [video("a"), video("b", rgb=[-0.5, 0.0])])
    write_records(f"{gcs_bucket}/data/train1", [video("c", labels=[10])])
    with pytest.raises(UserError, match=f"{gcs_bucket}/data/train1, record 1: label 10 is out"):
        validate({"train": f"{gcs_bucket}/data/*"}, f"{gcs_bucket}/out", FORMAT)
    statistics = json.loads(storage.read_text(f"{gcs_bucket}/out/statistics.json"))
    assert statistics["splits"]["train"]["videos"] == 2
    assert storage.exists(f"{gcs_bucket}/out/report.html")
