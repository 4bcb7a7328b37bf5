"""What a run needs on its nodes beside CPUs and GPUs, by arithmetic: room for clips, for weights and for checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squall.actors.node_checks import Needs
from squall.platform.shapes import BYTES, find_shape

if TYPE_CHECKING:
    from squall.jobs.session import SessionConfig

CLIPS_OF_A_GROUP = 3
"""Clean, corrupted and shuffled."""
OPTIMISER_BYTES = 12
"""Of a trained parameter in a checkpoint: float32 weight and two moments of AdamW."""


def needs_of(config: SessionConfig, groups_waiting: int, hands_over: bool) -> Needs:
    """Upper bounds of a run.

    Args:
        groups_waiting: groups whose clips are kept for the learner, beside those in flight.
        hands_over: whether engines get weights from a learner.
    """
    frames = config.data.frames
    pixels = frames.resize[0] * frames.resize[1] if frames.resize else frames.max_pixels
    clip = frames.max_frames * pixels * 3
    groups = config.workers.max_groups_in_flight + groups_waiting
    shape = find_shape(config.model.path)
    if shape is None:
        return Needs(groups * CLIPS_OF_A_GROUP * clip)
    weights = shape.parameters * BYTES[config.model.dtype]
    trained = 0 if config.model.lora is not None else shape.parameters
    in_memory = hands_over and config.engine.weight_transfer == "shared_memory"
    return Needs(groups * CLIPS_OF_A_GROUP * clip, weights if in_memory else 0.0, weights + OPTIMISER_BYTES * trained)
