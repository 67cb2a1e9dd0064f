"""File formats of predictions: CSV, JSON Lines and Parquet.

A video's predictions are its classes with the highest probabilities, in descending order.

| format    | content |
| --------- | ------- |
| `csv`     | the format of YouTube-8M challenge submissions: `VideoId,LabelConfidencePairs`, with quotes where RFC 4180 requires them; ids are written as they are, byte by byte |
| `jsonl`   | one object per line: `video_id`, and `predictions`, a list of `class`, `name` and `probability` |
| `parquet` | the same columns; BigQuery, Spark and pandas read both |

In `jsonl` and `parquet`, bytes of an id that are not UTF-8 are written as \\xNN.
"""  # noqa: E501

import json
from typing import BinaryIO, Protocol

import numpy as np

CSV_HEADER = b"VideoId,LabelConfidencePairs\n"
ROWS_PER_GROUP = 1 << 14  # of a Parquet file: the size that readers load and skip


class Writer(Protocol):
    """Writes predictions to an open file."""

    def write(
        self, ids: np.ndarray, classes: np.ndarray, probabilities: np.ndarray, counts: np.ndarray
    ) -> None:
        """Write the predictions of a batch.

        Args:
            ids: [batch] bytes.
            classes: [batch, k] class ids, in descending order of probability.
            probabilities: [batch, k] float32.
            counts: [batch] number of classes to write of each video.
        """

    def close(self) -> None:
        """Complete the file. The caller closes it."""


class CsvWriter:
    """Writes `csv`; see `Writer`."""

    def __init__(self, file: BinaryIO, class_names: list[str]):
        self.file = file
        file.write(CSV_HEADER)

    def write(self, ids, classes, probabilities, counts):
        lines = []
        rows = zip(ids, classes.tolist(), probabilities.tolist(), counts.tolist(), strict=True)
        for video_id, row_classes, row_probabilities, n in rows:
            pairs = zip(row_classes[:n], row_probabilities[:n], strict=True)
            text = " ".join([f"{c} {p:g}" for c, p in pairs])
            lines.append(b"%s,%s\n" % (quoted(video_id), text.encode()))
        self.file.writelines(lines)

    def close(self):
        pass


def quoted(field: bytes) -> bytes:
    """Return a field of a CSV file, with quotes if RFC 4180 requires them."""
    if any(character in field for character in (b",", b'"', b"\n", b"\r")):
        return b'"%s"' % field.replace(b'"', b'""')
    return field


class JsonLinesWriter:
    """Writes `jsonl`; see `Writer`."""

    def __init__(self, file: BinaryIO, class_names: list[str]):
        self.file = file
        # Encode each class once: json.dumps of whole objects takes several times as long.
        self.beginnings = [
            f'{{"class": {number}, "name": {json.dumps(name)}, "probability": '
            for number, name in enumerate(class_names)
        ]

    def write(self, ids, classes, probabilities, counts):
        lines, beginnings = [], self.beginnings
        rows = zip(ids, classes.tolist(), probabilities.tolist(), counts.tolist(), strict=True)
        for video_id, row_classes, row_probabilities, n in rows:
            pairs = zip(row_classes[:n], row_probabilities[:n], strict=True)
            text = ", ".join([f"{beginnings[c]}{p:g}}}" for c, p in pairs])
            id_text = json.dumps(_text(video_id))
            lines.append(f'{{"video_id": {id_text}, "predictions": [{text}]}}\n')
        self.file.write("".join(lines).encode())

    def close(self):
        pass


class ParquetWriter:
    """Writes `parquet`; see `Writer`."""

    def __init__(self, file: BinaryIO, class_names: list[str]):
        import pyarrow as pa
        from pyarrow import parquet

        fields = [("class", pa.int32()), ("name", pa.string()), ("probability", pa.float32())]
        self.schema = pa.schema(
            [("video_id", pa.string()), ("predictions", pa.list_(pa.struct(fields)))]
        )
        self.class_names = pa.array(class_names, pa.string())
        self.file = parquet.ParquetWriter(file, self.schema)
        self.batches, self.num_rows = [], 0

    def write(self, ids, classes, probabilities, counts):
        import pyarrow as pa

        written = np.arange(classes.shape[1]) < counts[:, np.newaxis]
        class_array = pa.array(classes[written], pa.int32())
        names = self.class_names.take(class_array)
        structs = pa.StructArray.from_arrays(
            [class_array, names, pa.array(probabilities[written], pa.float32())],
            fields=list(self.schema.field("predictions").type.value_type),
        )
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        predictions = pa.ListArray.from_arrays(
            offsets, structs, type=self.schema.field("predictions").type
        )
        id_array = pa.array(map(_text, ids), pa.string())
        self.batches.append(pa.RecordBatch.from_arrays([id_array, predictions], schema=self.schema))
        self.num_rows += len(ids)
        if self.num_rows >= ROWS_PER_GROUP:
            self._flush()

    def close(self):
        self._flush()
        self.file.close()

    def _flush(self):
        import pyarrow as pa

        if self.batches:
            table = pa.Table.from_batches(self.batches).combine_chunks()
            self.file.write_table(table)
        self.batches, self.num_rows = [], 0


# Format -> writer. The format is also the ending of the file's name.
WRITERS = {"csv": CsvWriter, "jsonl": JsonLinesWriter, "parquet": ParquetWriter}


def _text(video_id: bytes) -> str:
    return video_id.decode("utf-8", "backslashreplace")
