"""The page that a run leaves: one self-contained HTML file, readable offline, on a phone and in the dark."""

from squall.platform.report.examples import ClipPair, ExampleAnswer, ExampleClip, TrainingAnswer, TrainingExample
from squall.platform.report.page import write_report

__all__ = ["ClipPair", "ExampleAnswer", "ExampleClip", "TrainingAnswer", "TrainingExample", "write_report"]
