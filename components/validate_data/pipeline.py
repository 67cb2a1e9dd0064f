"""The Beam pipeline: scan every file, and merge the results."""

from collections.abc import Callable, Iterable
from functools import partial

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from components.validate_data.findings import Findings
from components.validate_data.ids import IdBlock, find_duplicates, partition
from components.validate_data.shard import Shard, keep_freed_memory, scan
from components.validate_data.statistics import Result, SplitStatistics
from trainer.data.records import RecordFormat


class ScanShards(beam.DoFn):
    """Scan files.

    Input: a Shard. Output: (split, SplitStatistics), one per split and bundle because statistics
    take megabytes; and, tagged "ids", (bucket, IdBlock).
    """

    def __init__(self, record_format: RecordFormat, num_buckets: int):
        self.record_format, self.num_buckets = record_format, num_buckets

    def setup(self):
        keep_freed_memory()

    def start_bundle(self):
        self.splits = {}

    def process(self, shard: Shard):
        if shard.split not in self.splits:
            self.splits[shard.split] = SplitStatistics.empty(self.record_format)
        ids = scan(shard, self.record_format, self.splits[shard.split])
        for bucket in partition(ids, self.num_buckets):
            yield beam.pvalue.TaggedOutput("ids", bucket)

    def finish_bundle(self):
        for split in self.splits.items():
            yield GlobalWindows.windowed_value_at_end_of_window(split)


class Merge(beam.CombineFn):
    """Combine objects by their `merge` method, starting from `empty()`."""

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
        scanned = (
            shards
            | "DistributeFiles" >> beam.Reshuffle()
            | "ScanFiles"
            >> beam.ParDo(ScanShards(self.record_format, self.num_buckets)).with_outputs(
                "ids", main="statistics"
            )
        )
        splits = scanned.statistics | "MergeSplits" >> beam.CombinePerKey(
            Merge(partial(SplitStatistics.empty, self.record_format))
        )
        duplicates = (
            scanned.ids
            | "GroupByBucket" >> beam.GroupByKey()
            | "FindDuplicates" >> beam.MapTuple(_find_duplicates)
            | "MergeDuplicates" >> beam.CombineGlobally(Merge(Findings))
        )
        return (
            shards.pipeline
            | "Once" >> beam.Create([None])
            | "Gather"
            >> beam.Map(_gather, beam.pvalue.AsDict(splits), beam.pvalue.AsSingleton(duplicates))
        )


def _find_duplicates(bucket: int, blocks: Iterable[IdBlock]) -> Findings:
    return find_duplicates(blocks)


def _gather(_, splits: dict[str, SplitStatistics], duplicates: Findings) -> Result:
    findings = Findings()
    for statistics in splits.values():
        findings.merge(statistics.findings)
    findings.merge(duplicates)
    return Result(splits, findings)
