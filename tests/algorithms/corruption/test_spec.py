"""Specs as text, mixtures, and bad input in one line."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from clips import real_frames

from squall.algorithms.corruption import (
    CALIBRATION,
    KINDS,
    STANDARD_KINDS,
    CorruptionSpec,
    Mixture,
    find_kind,
    make_spec,
    parse_spec,
    render,
    sample_spec,
)
from squall.platform.errors import ConfigError


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_spec_prints_as_a_line_that_reads_back(name):
    spec = make_spec(name, 0.375, 12, span=(1, 5), then=[make_spec("fog", 0.5, 3, drift=0.125)])
    assert "\n" not in str(spec) and parse_spec(str(spec)) == spec


def test_text_is_filled_in_with_defaults():
    spec = parse_spec("night + light_rain 0.8 wind=2 frames=0:4", severity=0.3, seed=10)
    assert spec == CorruptionSpec("photometric", "night", 0.3, 10, calibration=CALIBRATION, then=(
        CorruptionSpec("weather", "light_rain", 0.8, 11, {"wind": 2.0}, (0, 4), CALIBRATION),))
    assert parse_spec("fog severity=0.5 seed=7 calibration=0").calibration == 0


@pytest.mark.parametrize(("text", "message"), [
    ("fgo 0.5", "unknown corruption kind 'fgo'. Did you mean 'fog'? Allowed: "),
    ("fog 0.5 drfit=1", "unknown key 'drfit'. Did you mean 'drift'? Allowed: seed, frames, "),
    ("fog 0.5 seed=x", "seed=x: expected a number"),
    ("fog 0.5 seed=1.5", "seed=1.5: expected a whole number"),
    ("fog 0.5 drift=99", "'fog': drift = 99.0: expected a number from 0 to 10"),
    ("fog 1.5", "severity = 1.5: expected a number from 0 to 1"),
    ("fog nan", "severity = nan: expected a number from 0 to 1"),
    ("fog 0.5 frames=9", "frames=9: expected START:STOP, such as frames=4:12"),
    ("fog 0.5 frames=6:4", "span = (6, 4): expected 0 <= start <= stop"),
    ("fog 0.5 thick", "'thick' is no key=value"),
    ("fog 0.5 calibration=99", f"calibration = 99: this version of Squall has {CALIBRATION}, and 0 for none"),
    ("fog 0.5 + ", "empty; expected a kind"),
])
def test_bad_text_is_explained(text, message):
    with pytest.raises(ConfigError) as error:
        parse_spec(text, seed=1)
    assert message in str(error.value) and text in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "missing"), [("fog", "'fog' needs a severity"), ("fog 0.5", "'fog' needs a seed")])
def test_what_a_text_lacks_is_named(text, missing):
    with pytest.raises(ConfigError, match=missing):
        parse_spec(text)


@pytest.mark.parametrize(("build", "message"), [
    (lambda: make_spec("heavy_rian", 0.5, 1), "unknown corruption kind 'heavy_rian'. Did you mean 'heavy_rain'? Allowed: "),
    (lambda: make_spec("rain", 0.5, 1), "unknown corruption kind 'rain'. Did you mean light_rain or heavy_rain? Allowed: "),
    (lambda: make_spec("snow", 0.5, 1, szie=0.1), "unknown parameter 'szie'. Did you mean 'size'? Allowed: "),
    (lambda: make_spec("snow", 0.5, 1, size=3), "'snow': size = 3: expected a number from 0 to 0.5"),
    (lambda: make_spec("snow", 0.5, 1, size=float("nan")), "'snow': size = nan: expected a number from 0 to 0.5"),
    (lambda: make_spec("dusk", -0.1, 1), "severity = -0.1: expected a number from 0 to 1"),
    (lambda: make_spec("dusk", True, 1), "severity = True: expected a number from 0 to 1"),
    (lambda: make_spec("dusk", 0.5, -1), "seed = -1: expected an integer from 0 to 2^63 - 1"),
    (lambda: render(real_frames(), CorruptionSpec("wether", "fog", 0.5, 1)), "its family is 'weather', not 'wether'"),
    (lambda: find_kind("no.such:thing"), "'no.such:thing': No module named 'no'. Expected module:function, importable here"),
    (lambda: find_kind("math:tau"), "'math:tau': tau is a float, not a function"),
    (lambda: find_kind("math:thing"), "'math:thing': module 'math' has no attribute 'thing'"),
    (lambda: find_kind("colorsys:rgb_to_hsv"), "expected a function (frames, timeline, *, severity, option=1.0, ...)"),
    (lambda: sample_spec(1, [], (0.1, 0.2)), "no corruption kinds to draw from. Allowed: "),
    (lambda: sample_spec(1, ["fogg"], (0.1, 0.2)), "Did you mean 'fog'?"),
    (lambda: sample_spec(1, ["fog"], (0.5, 0.2)), "severity = (0.5, 0.2): expected 0 <= low <= high <= 1"),
    (lambda: sample_spec(1, {"fog": 0.7, "snow": 0.4}, (0, 1)), "probabilities sum to 1.1: at most 1 is allowed"),
    (lambda: sample_spec(1, {"fog": -0.1}, (0, 1)), "'fog': probability -0.1: expected a number from 0 to 1"),
])
def test_bad_input_is_explained(build, message):
    with pytest.raises(ConfigError) as error:
        build()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_users_function_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "my_kinds.py").write_text('''
def darker(frames, timeline, *, severity, floor=0.0):
    """Less light."""
    frames[:] = (frames * (1 - severity)).clip(floor)
''')
    monkeypatch.syspath_prepend(tmp_path)
    frames = real_frames()
    spec = parse_spec("my_kinds:darker 0.25 seed=1 floor=9")
    assert np.array_equal(render(frames, spec), (frames * 0.75).clip(9).astype(np.uint8))
    assert parse_spec(str(spec)) == spec and find_kind("my_kinds:darker").summary == "Less light."
    assert render(frames, parse_spec("my_kinds:darker 0 seed=1")) is frames


def test_a_mixture_draws_by_its_probabilities():
    mixture = Mixture.of({"fog": 0.5, "night 0.2 + light_rain": 0.25, "snow": 0}, (0.4, 0.8))
    drawn = [mixture.draw(seed) for seed in range(2000)]
    assert drawn[17] == mixture.draw(17)
    counts = Counter(None if spec is None else spec.name for spec in drawn)
    assert set(counts) == {"fog", "night+light_rain", None}
    assert abs(counts["fog"] - 1000) < 90 and abs(counts["night+light_rain"] - 500) < 80
    fog = np.array([spec.severity for spec in drawn if spec is not None and spec.kind == "fog"])
    assert fog.min() >= 0.4 and fog.max() <= 0.8 and abs(fog.mean() - 0.6) < 0.02
    both = next(spec for spec in drawn if spec is not None and spec.then)
    assert both.severity == 0.2 and both.then[0].seed == both.seed + 1
    assert len({spec.seed for spec in drawn if spec is not None}) > 1490


def test_kinds_alike_leave_no_clip_clean():
    drawn = [sample_spec(seed, STANDARD_KINDS, (0.3, 0.7)) for seed in range(920)]
    counts = Counter(spec.kind for spec in drawn)
    assert set(counts) == set(STANDARD_KINDS) and min(counts.values()) > 15  # 40 expected of each
