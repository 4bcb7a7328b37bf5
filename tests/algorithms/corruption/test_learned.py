"""Trained attackers as a kind: what is distorted on clips of any size, what specs say of them, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from blind_attackers import SHAPE, attack_of, attackers, clip_with_a_patch, save_blind_attackers

from squall.algorithms.checking import fresh_fingerprint
from squall.algorithms.corruption import Mixture, find_kind, make_spec, parse_spec, render, render_with_masks
from squall.algorithms.corruption.check import fingerprint
from squall.algorithms.corruption.learned import MOST
from squall.algorithms.corruption.streaming import corrupt_stream
from squall.algorithms.video_attack.blind import play_blind
from squall.algorithms.video_attack.palette import Palette
from squall.platform.attacker_files import DESCRIPTION, WEIGHTS, attackers_hash
from squall.platform.errors import ConfigError
from squall.platform.streaming import HeldFrames


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_blind_attackers(tmp_path / "attackers")


@pytest.mark.parametrize("keys", [{"distortion": "gaussian_noise", "levels": 2},
                                  {"distortion": "heavy_rain wind=2", "severity": 0.6}])
def test_a_clip_of_the_trained_size_shows_what_an_attack_with_these_cells_would(tmp_path: Path, keys: dict) -> None:
    folder, clip, config = save_blind_attackers(tmp_path / "a", **keys), clip_with_a_patch(), attack_of(**keys)
    occupancy = play_blind(clip, config, attackers(config), 7, 0.6 * MOST)
    expected = Palette(clip, config, 7).compose(occupancy)
    assert np.array_equal(render(clip, make_spec(f"learned:{folder}", 0.6, 7)), expected)
    assert not np.array_equal(render(clip, make_spec(f"learned:{folder}", 0.6, 8)), expected)


@pytest.mark.parametrize("shape", [SHAPE, (16, 64, 96), (11, 47, 62), (3, 20, 20), (1, 1, 1)])
def test_a_higher_severity_takes_the_same_pixels_and_more(folder: Path, shape: tuple[int, int, int]) -> None:
    clip = clip_with_a_patch(*shape)
    changed = [(render(clip, make_spec(f"learned:{folder}", severity, 3)) != clip).any(-1) for severity in (0, 0.1, 0.5, 1)]
    assert all((more >= less).all() for less, more in zip(changed, changed[1:], strict=False)) and not changed[0].any()
    if shape == SHAPE:
        assert [int(where.sum()) for where in changed] == [cells * 2 * 8 * 8 for cells in (0, 4, 16, 32)]


def test_cells_lie_where_they_lie_in_the_picture_that_was_learned_from(folder: Path) -> None:
    clip = clip_with_a_patch(16, 120, 200)
    changed = (render(clip, make_spec(f"learned:{folder}", 1.0, 3, share=1 / 64)) != clip).any(-1)
    times, rows, columns = (np.flatnonzero(changed.any(axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    assert (len(times), times[0] % 4) == (4, 0)
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (30, 59, 100, 149) and changed.sum() == 4 * 30 * 50


def test_it_is_composed_streamed_and_kept_within_a_span_like_any_kind(folder: Path) -> None:
    clip = clip_with_a_patch(12, 48, 64)
    spec = parse_spec(f"learned:{folder} 0.5 frames=2:10 + heavy_rain 0.4 + random_drop_cut 0.3", seed=1)
    rendered = render_with_masks(clip, spec)
    streamed = corrupt_stream(HeldFrames(clip, 24.0), spec)
    assert np.array_equal(np.concatenate([chunk.frames for chunk in streamed.chunks()]), rendered.frames)
    alone = render_with_masks(clip, parse_spec(f"learned:{folder} 0.5 frames=2:10", seed=1))
    assert np.array_equal(np.flatnonzero(alone.where.any((1, 2))), np.flatnonzero((alone.frames != clip).any((1, 2, 3))))
    assert set(np.flatnonzero(alone.where.any((1, 2)))) <= set(range(2, 10)) and alone.where.any()
    with pytest.raises(ConfigError, match="needs the whole clip: it was given frames 2 to 5 of 12"):
        render(clip[2:5], make_spec(f"learned:{folder}", 0.5, 1), first=2, count=12)


def test_a_spec_carries_an_absolute_path_and_the_hash(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    spec = parse_spec("learned:./attackers 0.5 share=0.1 + fog 0.3", seed=2)
    assert (spec.kind, spec.family, spec.checkpoint) == (f"learned:{folder}", "learned", attackers_hash(folder))
    assert spec == make_spec("learned:attackers", 0.5, 2, share=0.1, then=[make_spec("fog", 0.3, 3)])
    monkeypatch.chdir("/")
    assert parse_spec(str(spec)) == spec and spec.name == f"learned:{folder}+fog"
    drawn = Mixture.of({f"learned:{folder}": 1.0}, (0.5, 0.5)).draw(9)
    assert drawn.checkpoint == spec.checkpoint


def test_the_hash_says_which_attackers_and_the_path_only_where_they_lie(folder: Path) -> None:
    clip, spec = clip_with_a_patch(), make_spec(f"learned:{folder}", 0.5, 2)
    moved = folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(ConfigError, match="no trained attackers here"):
        render(clip, spec)
    there = parse_spec(str(spec).replace(str(folder), str(moved)))
    before = render(clip, there)
    save_blind_attackers(moved, eagerness=-40.0)
    with pytest.raises(ConfigError, match=f"made with checkpoint {spec.checkpoint}, this kind has {attackers_hash(moved)}"):
        render(clip, there)
    assert not np.array_equal(render(clip, make_spec(f"learned:{moved}", 0.5, 2)), before)


def test_attackers_are_read_once_in_a_process(folder: Path) -> None:
    kind = find_kind(f"learned:{folder}")
    assert find_kind(f"learned:{os.path.relpath(folder)}") is kind and kind.whole_clip
    os.utime(folder / WEIGHTS, ns=(1, 1))
    assert find_kind(f"learned:{folder}") is not kind


def test_another_process_renders_the_same_pixels(tmp_path: Path) -> None:
    name = f"learned:{save_blind_attackers(tmp_path / 'a', eagerness=1.0)}"
    assert fresh_fingerprint("squall.algorithms.corruption.check", name) == fingerprint(name)


def damaged(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])


def described(folder: Path, **about: object) -> None:
    facts = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**facts, "about": facts["about"] | about}))


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda folder: (folder / WEIGHTS).unlink(), r"attackers: no trained attackers here \(No such file or directory\); give"),
    (damaged, r"attackers: damaged attackers \("),
    (lambda folder: described(folder, attack={"distortion": "fogg"}), "attackers.json: about: 'attack.distortion' = .*'fog'"),
    (lambda folder: described(folder, attack=None), "attackers.json: about: 'attack' = None: "),
    (lambda folder: described(folder, frames=7), "about: block = 2 does not divide a clip of 7 frames"),
    (lambda folder: described(folder, attack=attack_of(cells_per_step=3).model_dump()), "attackers: the spatial attacker"),
    (lambda folder: described(folder, attack=attack_of().model_dump() | {"distortion": f"learned:{folder}"}),
     "attackers choose cells, so"),
])
def test_what_cannot_be_used_is_refused_in_one_line(folder: Path, spoil: object, says: str) -> None:
    spoil(folder)
    with pytest.raises(ConfigError, match=says) as refused:
        parse_spec(f"learned:{folder} 0.5", seed=1)
    assert "\n" not in str(refused.value) and str(refused.value).startswith(f"corruption 'learned:{folder} 0.5': {folder}")


@pytest.mark.parametrize("name", ["my attackers", "a+b"])
def test_a_path_that_a_line_cannot_carry_is_refused(tmp_path: Path, name: str) -> None:
    folder = save_blind_attackers(tmp_path / name)
    with pytest.raises(ConfigError, match="may have no space and no .; rename the folder, or give a link to it"):
        make_spec(f"learned:{folder}", 0.5, 1)
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert make_spec(f"learned:{link}", 0.5, 1).kind == f"learned:{link}"
