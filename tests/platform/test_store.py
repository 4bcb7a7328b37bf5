from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from squall.platform.errors import DataError
from squall.platform.records import (
    Branch,
    CorruptionSpec,
    MediaType,
    ProblemType,
    Rollout,
    SampledGroup,
    SamplingSpec,
    ScoredGroup,
    TrainGroup,
    VideoSample,
)
from squall.platform.store import SCHEMA, RolloutStore

SPEC = CorruptionSpec("weather", "rain", 0.3, 2**31 - 1, {"density": 0.1, "streak_px": 4.0}, (2, 6))


def make_group(number: int, corruption: CorruptionSpec | None = SPEC, logprob: float = -0.1) -> TrainGroup:
    sample = VideoSample(f"clip-{number}", "a/b.mp4", MediaType.VIDEO, "What?", ProblemType.MULTIPLE_CHOICE, "B",
                         ("A. red", "B. blue"), None, {"source": "film", "nested": {"tags": [1, 2.5, None]}})
    branches = (Branch.CLEAN, Branch.CORRUPTED, Branch.CORRUPTED, Branch.SHUFFLED)
    rollouts = tuple(
        Rollout(sample.id, f"try-{number}", branch, f"hash-{branch}", index, SamplingSpec(0.9, 0.95, 64, None),
                tuple(range(index + 1)), f"<answer>B</answer> {index} ñ", (logprob,) * (index + 1), 3, "stop")
        for index, branch in enumerate(branches)
    )
    hashes = {branch: f"hash-{branch}" for branch in Branch}
    sampled = SampledGroup(f"group-{number}", sample, "prompt", corruption, hashes, rollouts)
    scored = ScoredGroup(sampled, ({"accuracy": 1.0, "format": 0.1}, {"accuracy": 0.0}, {}, {"temporal": 1 / 3}))
    return TrainGroup(scored, (None, 0.7071067811865476, -1 / 3, None), {"contrast_effective": 1.0})


def test_records_come_back_equal(tmp_path: Path) -> None:
    groups = [make_group(1), make_group(2, corruption=None), make_group(1, dataclasses.replace(SPEC, span=None))]
    store = RolloutStore(tmp_path)
    store.write(12, groups)
    assert store.read(12) == groups
    assert store.read(12)[0].scored.sampled.rollouts[1].logprobs == (-0.1, -0.1)
    assert store.read_dropped(12) == []


def test_dropped_groups_are_stored_with_their_reason(tmp_path: Path) -> None:
    store, trained, dropped = RolloutStore(tmp_path), make_group(1), make_group(2).scored
    store.write(1, [trained], [("zero_variance", dropped)])
    assert store.read(1) == [trained]
    assert store.read_dropped(1) == [("zero_variance", dropped)]


def test_rows_are_one_per_rollout_and_readable_by_column(tmp_path: Path) -> None:
    path = RolloutStore(tmp_path).write(123, [make_group(1)], [("zero_variance", make_group(2).scored)])
    table = pq.read_table(path, columns=["step", "branch", "corruption_kind", "advantage", "dropped", "rewards"])
    assert path.name == "step-000123.parquet"
    assert table.num_rows == 8
    assert table["branch"].to_pylist()[:4] == ["clean", "corrupted", "corrupted", "shuffled"]
    assert table["advantage"].null_count == 6
    assert dict(table["rewards"][0].as_py()) == {"accuracy": 1.0, "format": 0.1}
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"


def test_writing_again_replaces_the_step_and_leaves_no_other_file(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    for groups in ([make_group(1), make_group(2)], [make_group(3)]):
        store.write(1, groups)
    store.write(2, [])
    assert [group.scored.sampled.group_id for group in store.read(1)] == ["group-3"]
    assert store.read(2) == []
    assert store.steps() == [1, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_one_group_is_read_by_its_position_trained_or_dropped(tmp_path: Path) -> None:
    store, dropped = RolloutStore(tmp_path), make_group(2).scored
    store.write(1, [make_group(1)], [("zero_variance", dropped)])
    assert store.read_group(1, 0) == make_group(1) and store.read_group(1, 1).scored == dropped
    for step, position in ((1, 2), (5, 0)):
        with pytest.raises(DataError, match=f"no group {position} is stored"):
            store.read_group(step, position)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + 200 * b"x" + b"PAR1"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    store = RolloutStore(tmp_path)
    store.path(3).write_bytes(content)
    with pytest.raises(DataError, match=r"step-000003\.parquet: cannot be read as rollouts") as error:
        store.read(3)
    assert "\n" not in str(error.value)


def test_files_that_are_no_steps_are_passed_over(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.write(4, [make_group(1)])
    (tmp_path / "step-copy.parquet").write_bytes(b"")
    assert store.steps() == [4]


def test_missing_step_says_what_is_stored(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    with pytest.raises(DataError, match="no step is stored"):
        store.read(1)
    store.write(4, [make_group(1)])
    with pytest.raises(DataError, match="no rollouts of step 9; stored steps are 4 to 4"):
        store.read(9)


def test_every_field_of_the_records_has_a_column() -> None:
    def names(record: type) -> set[str]:
        return {field.name for field in dataclasses.fields(record)}

    parts = {"id", "sampling", "sampled", "scored", "corruption", "rollouts", "advantages", "sample"}
    columns = set(SCHEMA.names) | parts
    for record in (VideoSample, Rollout, SampledGroup, ScoredGroup, TrainGroup):
        assert names(record) <= columns
    assert {f"corruption_{name}" for name in names(CorruptionSpec)} <= columns
