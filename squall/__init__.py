"""Squall: reinforcement learning for video models that have to work outside, on Ray."""

__version__ = "0.1.0"
