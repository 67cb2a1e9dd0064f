"""The Beam pipeline: scan every file, merge what was found, write it down."""

from collections.abc import Callable, Iterable

import apache_beam as beam

from components.validate_data.findings import Findings
from components.validate_data.ids import IdBlock, cut, find_repeated
from components.validate_data.shard import Shard, scan
from components.validate_data.statistics import Result, SplitStatistics
from trainer.records import RecordFormat


class ScanShards(beam.DoFn):
    """Scans files.

    Input: a Shard. Output: (split, SplitStatistics); and, tagged "ids", (bucket, IdBlock).
    """

    def __init__(self, record_format: RecordFormat, num_buckets: int):
        self.record_format, self.num_buckets = record_format, num_buckets

    def process(self, shard: Shard):
        statistics, ids = scan(shard, self.record_format)
        yield shard.split, statistics
        for bucket in cut(ids, self.num_buckets):
            yield beam.pvalue.TaggedOutput("ids", bucket)


class Merge(beam.CombineFn):
    """Merges what has a `merge` method, from what `empty()` gives on."""

    def __init__(self, empty: Callable):
        self.empty = empty

    def create_accumulator(self):
        return self.empty()

    def add_input(self, accumulator, value):
        accumulator.merge(value)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable):
        merged = self.empty()
        for accumulator in accumulators:
            merged.merge(accumulator)
        return merged

    def extract_output(self, accumulator):
        return accumulator


class Validate(beam.PTransform):
    """Input: Shards. Output: one Result."""

    def __init__(self, record_format: RecordFormat, num_buckets: int):
        super().__init__()
        self.record_format, self.num_buckets = record_format, num_buckets

    def expand(self, shards):
        num_classes = self.record_format.num_classes
        scanned = (
            shards
            | "SpreadFiles" >> beam.Reshuffle()
            | "ScanFiles"
            >> beam.ParDo(ScanShards(self.record_format, self.num_buckets)).with_outputs(
                "ids", main="statistics"
            )
        )
        splits = scanned.statistics | "MergeSplits" >> beam.CombinePerKey(
            Merge(lambda: SplitStatistics.empty(num_classes))
        )
        repeated = (
            scanned.ids
            | "MeetInBuckets" >> beam.GroupByKey()
            | "FindRepeatedIds" >> beam.MapTuple(_find_repeated)
            | "MergeRepeated" >> beam.CombineGlobally(Merge(Findings))
        )
        return (
            shards.pipeline
            | "Once" >> beam.Create([None])
            | "Gather"
            >> beam.Map(_gather, beam.pvalue.AsDict(splits), beam.pvalue.AsSingleton(repeated))
        )


def _find_repeated(bucket: int, blocks: Iterable[IdBlock]) -> Findings:
    return find_repeated(blocks)


def _gather(_, splits: dict[str, SplitStatistics], repeated: Findings) -> Result:
    findings = Findings()
    for statistics in splits.values():
        findings.merge(statistics.findings)
    findings.merge(repeated)
    return Result(splits, findings)
