"""Episodes against a victim that looks at one spot: what is asked, rewarded, seen, removed, and when it ends."""

from __future__ import annotations

import numpy as np
import pytest
from spot_victim import BLOCK, BLOCKS, CELL, COLUMN, PLACE, ROW, Spot, noise_clip

from squall.algorithms.video_attack.asking import Budgeted, label_only
from squall.algorithms.video_attack.config import AttackConfig
from squall.algorithms.video_attack.episode import Choose, Episode, play
from squall.algorithms.video_attack.measures import measure
from squall.algorithms.video_attack.observing import SPATIAL_FEATURES, TEMPORAL_FEATURES
from squall.algorithms.video_attack.outcome import VideoOutcome
from squall.platform.errors import DataError

CLIP = noise_clip()
NONE = 16
SPOT = [(block, ROW, COLUMN) for block in BLOCKS]


def episode_of(**keys: object) -> Episode:
    return Episode(CLIP, 0, AttackConfig(**{"block": BLOCK, "cell": CELL, "max_queries": 100} | keys), seed=1)


def begun(limit: float = 40.0, **keys: object) -> tuple[Episode, Spot]:
    episode, victim = episode_of(**keys), Spot(CLIP, limit)
    episode.absorb(victim(episode.start()))
    return episode, victim


def attack(choose: Choose, limit: float = 40.0, **keys: object) -> tuple[VideoOutcome, Budgeted]:
    episode = episode_of(**keys)
    ask = Budgeted(Spot(CLIP, limit), episode.config.max_queries)
    return play(episode, ask, choose), ask


def random_choice(seed: int) -> Choose:
    rng = np.random.default_rng(seed)

    def choose(episode: Episode) -> tuple[list[int], list[int]]:
        masks = episode.action_masks
        return tuple([int(rng.choice(np.flatnonzero(mask))) for mask in masks[agent]] for agent in ("spatial", "temporal"))

    return choose


def on(outcome: VideoOutcome) -> list[tuple[int, ...]]:
    return [tuple(cell) for cell in np.argwhere(outcome.occupancy).tolist()]


def test_a_policy_that_knows_the_spot_needs_two_queries_and_two_cells() -> None:
    outcome, ask = attack(lambda episode: ((PLACE, NONE), (BLOCKS[0], 1)))
    assert outcome.fooled and outcome.queries == 2 and on(outcome) == SPOT
    assert outcome.total_queries == ask.queries and outcome.removal_queries <= 2
    assert [number for number, _ in outcome.trace] == [1, 2] and outcome.trace[0][1] > 0.99 and outcome.trace[1][1] < 0.05
    assert Spot(CLIP)(outcome.adversarial[None])[0].argmax() == 1


def test_removal_drops_what_the_victim_does_not_see() -> None:
    outcome, _ = attack(lambda episode: ((PLACE, NONE), (0, 3)))
    assert outcome.queries == 2 and on(outcome) == SPOT
    kept, _ = attack(lambda episode: ((PLACE, NONE), (0, 3)), removal=False)
    assert len(on(kept)) == 4 and kept.removal_queries == 0


def test_random_places_need_more_and_removal_still_finds_the_spot() -> None:
    found = [attack(random_choice(seed), removal=True, max_queries=200)[0] for seed in range(8)]
    fooled = [outcome for outcome in found if outcome.fooled]
    assert len(fooled) >= 6 and np.mean([outcome.queries for outcome in fooled]) > 10
    assert all(on(outcome) == SPOT for outcome in fooled)
    assert all(outcome.removal_queries < 30 for outcome in fooled)


def test_no_more_than_the_budget_is_asked_and_all_of_it_is_counted() -> None:
    for seed in range(12):
        outcome, ask = attack(random_choice(seed), max_queries=21 + seed, limit=60.0)
        assert ask.queries == outcome.total_queries <= 21 + seed
        assert [number for number, _ in outcome.trace] == list(range(1, outcome.queries + 1))


def test_the_same_seed_gives_the_same_attack() -> None:
    one, other = (attack(random_choice(3))[0] for _ in range(2))
    assert np.array_equal(one.adversarial, other.adversarial) and one.trace == other.trace
    config = AttackConfig(block=BLOCK, cell=CELL)
    assert (Episode(CLIP, 0, config, 1).palette.levels[1] != Episode(CLIP, 0, config, 2).palette.levels[1]).any()


def test_the_reward_is_that_of_the_formula() -> None:
    episode, victim = begun(lam1=2.0, lam2=3.0, lam3=0.5, lam4=4.0, bonus=7.0, max_queries=50)
    clean, p_before = measure(CLIP, CLIP, episode.grid), episode.p_label
    for action, bonus in (((0, NONE), 0), ((PLACE, 0), 7)):
        (changed,) = clips = episode.propose(action, (1, 1))
        probabilities = victim(clips)
        result = episode.absorb(probabilities)
        found = measure(CLIP, changed, episode.grid)
        p_after = probabilities[0, 0]
        expected = (2 * np.log(p_before / p_after) - 3 * (found.l2 - clean.l2) / np.sqrt(CLIP.size) - 0.5 * found.flicker
                    - 4 / 50 + bonus)
        assert result.reward == pytest.approx(expected) and result.flipped == result.done == bool(bonus)
        clean, p_before = found, p_after


def test_observations_say_where_the_victim_looked() -> None:
    episode, victim = begun(limit=120.0)
    for place in range(16):
        episode.absorb(victim(episode.propose((place, NONE), (1, 0) if place % 2 else (2, 0))))
    seen = episode.observations()
    assert {agent: view.shape for agent, view in seen.items()} == episode.observation_shapes
    assert all(view.dtype == np.float32 and np.abs(view).max() <= 1 for view in seen.values())
    sensitivity = seen["spatial"][SPATIAL_FEATURES.index("sensitivity")]
    assert sensitivity.argmax() == PLACE and sensitivity[ROW, COLUMN] > 0.9
    assert np.abs(np.delete(sensitivity.ravel(), PLACE)).max() < 0.01
    assert (seen["temporal"][TEMPORAL_FEATURES.index("spent")] == np.float32(0.17)).all()


def test_a_removal_that_restores_the_label_marks_the_place_as_sensitive() -> None:
    episode, victim = begun(limit=120.0)
    episode.absorb(victim(episode.propose((PLACE, NONE), (0, 3))))
    episode.absorb(victim(episode.propose((0, PLACE), (0, 3))))
    sensitivity = episode.observations()["spatial"][SPATIAL_FEATURES.index("sensitivity")]
    assert sensitivity[ROW, COLUMN] > 0.9 and sensitivity[0, 0] < -0.9


def test_probes_are_counted_and_show_places_and_blocks() -> None:
    episode, _ = begun(limit=120.0, probes=True)
    assert episode.queries == episode.grid.sweep == 21 and not episode.occupancy.any() and not episode.done
    seen = episode.observations()
    assert seen["spatial"][SPATIAL_FEATURES.index("sensitivity")].argmax() == PLACE
    moments = seen["temporal"][TEMPORAL_FEATURES.index("sensitivity")]
    assert moments[list(BLOCKS)].min() > 0.5 and np.abs(moments[[0, 3]]).max() < 0.01


def test_a_probe_that_flips_is_the_attack() -> None:
    episode, _ = begun(probes=True)
    assert episode.done and episode.flipped and np.argwhere(episode.occupancy).tolist() == [[b, ROW, COLUMN] for b in range(4)]
    either, _ = begun(probes=True, limit=20.0)
    assert sum(p < 0.5 for _, p in either.trace) == 3 and either.occupancy.sum() == 4, "the smallest of those that flip"


def test_a_clip_that_the_victim_gets_wrong_is_not_attacked() -> None:
    episode, victim = episode_of(), Spot(CLIP, limit=-40.0)
    result = episode.absorb(victim(episode.start()))
    assert result.done and not result.flipped and result.reward == 0 and episode.correct is False
    assert not episode.outcome().fooled and list(episode.removal()) == []


def test_an_attack_that_fails_hands_in_its_closest_attempt() -> None:
    moves = iter([((PLACE, NONE), (0, 3)), ((0, PLACE), (0, 3)), ((1, 0), (0, 3))])
    outcome, ask = attack(lambda episode: next(moves), limit=120.0, max_steps=3)
    assert not outcome.fooled and ask.queries == outcome.queries == 4 and outcome.removal_queries == 0
    assert on(outcome) == [(block, ROW, COLUMN) for block in range(4)]
    assert Spot(CLIP, 120.0)(outcome.adversarial[None])[0, 0] == min(p for _, p in outcome.trace)


def test_it_ends_when_nothing_is_left_to_add() -> None:
    outcome, _ = attack(lambda e: ((int(e.action_masks["spatial"][0].argmax()), NONE), (0, 3)), limit=200.0, removal=False)
    assert not outcome.fooled and outcome.queries == 1 + 16


def test_with_removal_it_goes_on_to_the_end_of_the_budget() -> None:
    outcome, ask = attack(random_choice(0), limit=200.0, max_queries=60)
    assert not outcome.fooled and ask.queries == outcome.queries == 60
    assert attack(random_choice(0), limit=200.0, max_queries=60, max_steps=9)[0].queries == 1 + 9


def test_removal_begins_with_places_that_seemed_not_to_matter() -> None:
    episode, victim = begun(limit=70.0)
    for place, first in ((PLACE, BLOCKS[0]), (0, 0), (PLACE, BLOCKS[1])):
        episode.absorb(victim(episode.propose((place, NONE), (first, 0))))
    assert episode.flipped
    tried = next(episode.removal())[0]
    changed = (tried != episode.palette.compose(episode.occupancy)).any(-1)
    assert [tuple(cell) for cell in np.argwhere(episode.grid.split(changed).any((3, 4, 5)))] == [(0, 0, 0)]


def test_a_label_only_victim_is_attacked_too() -> None:
    episode = episode_of()
    outcome = play(episode, label_only(Spot(CLIP)), lambda _: ((PLACE, NONE), (0, 3)))
    assert outcome.fooled and on(outcome) == SPOT and [p for _, p in outcome.trace] == [1.0, 0.0]


def test_a_bad_answer_changes_nothing_and_may_be_asked_for_again() -> None:
    episode, victim = begun()
    clips = episode.propose((PLACE, NONE), (0, 3))
    for answer in (np.full((1, 2), np.nan), victim(np.stack([CLIP] * 2))):
        with pytest.raises(DataError, match="the victim returned"):
            episode.absorb(answer)
    assert (episode.queries, episode.steps) == (1, 0) and not episode.occupancy.any()
    assert episode.absorb(victim(clips)).flipped


def test_calls_out_of_turn_are_refused() -> None:
    episode, victim = begun()
    for call in (episode.start, lambda: episode.absorb(victim(CLIP[None])), ):
        with pytest.raises(RuntimeError, match="out of turn"):
            call()
    episode.absorb(victim(episode.propose((PLACE, NONE), (0, 3))))
    with pytest.raises(RuntimeError, match="out of turn"):
        episode.propose((PLACE, NONE), (0, 3))
