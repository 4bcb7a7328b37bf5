"""A sampler guided by optical flow: tokens that move are visible more often. Nothing is learned.

In the spirit of motion-guided masking (MGMAE, arXiv 2308.10794), which warps a mask along the flow; drawing tokens by the
length of their flow is ours.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from pydantic import Field

from squall.algorithms.masked_video.credit import Chooses
from squall.algorithms.masked_video.grid import TokenGrid
from squall.algorithms.masked_video.samplers.plans import Proposal, Sampler
from squall.platform.config import Config

GREY = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in luma (Rec. 601)."""


class FlowConfig(Config):
    """How flow becomes a token's probability, which is proportional to (length + floor) ^ sharpness."""

    side: int = Field(112, ge=16)
    """Frames whose shorter side is longer are made this small first, in pixels."""
    less_camera: bool = True
    """Take off each frame's median flow, which a pan of the camera gives to everything."""
    floor: float = Field(0.05, gt=0)
    """Pixels per frame that are added to every length, so that what stands still may be drawn too."""
    sharpness: float = Field(1.0, gt=0)
    """Exponent; higher ones keep to what moves fastest."""


class FlowSampler(Sampler):
    """Farneback's flow between neighbouring frames, on the CPU."""

    def __init__(self, grid: TokenGrid, config: FlowConfig, chooses: Chooses = "visible") -> None:
        super().__init__(grid, chooses)
        self.config = config

    def propose(self, clips: torch.Tensor, tokens: torch.Tensor) -> Proposal:
        lengths = [token_flow(clip, self.grid, self.config) for clip in clips.detach().float().cpu().numpy()]
        logits = self.config.sharpness * (torch.from_numpy(np.stack(lengths)) + self.config.floor).log()
        return Proposal(logits.to(clips.device))


def token_flow(clip: np.ndarray, grid: TokenGrid, config: FlowConfig) -> np.ndarray:
    """Mean length of the flow in every token, float32 (N,), in pixels per frame; a frame has that to the one after it.

    Args:
        clip: float32 (C, T, H, W) in [0, 1]; one channel, or RGB.
    """
    small = _grey(clip, config.side)
    flows = [_between(first, second, config) for first, second in zip(small[:-1], small[1:], strict=True)] or [
        np.zeros(small[0].shape, np.float32)]
    lengths = np.stack([*flows, flows[-1]][:grid.frames]) * (grid.height / small[0].shape[0])
    whole = [cv2.resize(each, (grid.columns, grid.rows), interpolation=cv2.INTER_AREA) for each in lengths]
    return np.stack(whole).reshape(grid.times, grid.tubelet, -1).mean(1).ravel().astype(np.float32)


def _grey(clip: np.ndarray, side: int) -> list[np.ndarray]:
    grey = np.tensordot(GREY, clip, 1) if len(clip) == 3 else clip.mean(0)
    frames = (grey * 255).round().clip(0, 255).astype(np.uint8)
    height, width = frames.shape[1:]
    scale = min(1.0, side / min(height, width))
    size = (round(width * scale), round(height * scale))
    return [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]


def _between(first: np.ndarray, second: np.ndarray, config: FlowConfig) -> np.ndarray:
    flow = cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 9, 3, 5, 1.1, 0)  # type: ignore[call-overload]
    if config.less_camera:
        flow = flow - np.median(flow, axis=(0, 1))
    return np.linalg.norm(flow, axis=2).astype(np.float32)
