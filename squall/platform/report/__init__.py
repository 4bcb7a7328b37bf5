"""The page that a run leaves: one self-contained HTML file, readable offline, on a phone and in the dark."""

from squall.platform.report.page import ExampleAnswer, ExampleClip, write_report

__all__ = ["ExampleAnswer", "ExampleClip", "write_report"]
