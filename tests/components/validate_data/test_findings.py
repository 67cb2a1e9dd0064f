from hypothesis import given
from hypothesis import strategies as st

from components.validate_data.findings import KINDS, MAX_EXAMPLES, SEVERITIES, Example, Findings

added = st.lists(
    st.tuples(st.sampled_from(["crc", "leak"]), st.sampled_from(["train", "eval"]), st.integers(1))
)


def collect(rows) -> Findings:
    findings = Findings()
    for kind, split, record in rows:
        findings.add(kind, split, Example("file", record, "", "broken"))
    return findings


def merge(*parts: Findings) -> Findings:
    merged = Findings()
    for part in parts:
        merged.merge(part)
    return merged


@given(added, added, added)
def test_merging_is_the_same_in_any_order(a, b, c):
    whole = collect(a + b + c)
    assert merge(collect(a), collect(b), collect(c)) == whole
    assert merge(collect(c), merge(collect(b), collect(a))) == whole


def test_the_count_goes_on_when_the_examples_end():
    findings = collect(("crc", "train", number) for number in range(30, 0, -1))
    (row,) = findings.as_rows()
    assert row["count"] == 30
    assert [example["record"] for example in row["examples"]] == list(range(1, MAX_EXAMPLES + 1))


def test_errors_come_first():
    findings = collect([("duplicate", "train", 1), ("leak", "train", 1), ("crc", "eval", 1)])
    assert [row["kind"] for row in findings.as_rows()] == ["crc", "leak", "duplicate"]
    assert findings.has("error")
    assert not collect([("duplicate", "train", 1)]).has("error")


def test_every_kind_says_what_to_do():
    for kind in KINDS.values():
        assert kind.severity in SEVERITIES
        assert kind.advice.endswith(".")
