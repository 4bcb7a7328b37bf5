"""From a sample to the chat messages a policy sees, and from its text back to reasoning and answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from types import MappingProxyType
from typing import Any

from squall.platform.errors import ConfigError, nearest
from squall.platform.records import ProblemType, VideoSample

FORMAT_PATTERN = re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL)
"""Use with ``fullmatch``: a think block, optional whitespace, an answer block, nothing else."""

PLACEHOLDERS = ("question", "options", "instruction")

INSTRUCTIONS: Mapping[ProblemType, str] = MappingProxyType({
    ProblemType.MULTIPLE_CHOICE:
        "Please provide only the single option letter (e.g., A, B, C, D, etc.) within the <answer> </answer> tags.",
    ProblemType.NUMERICAL: "Please provide only the number (e.g., 7 or 2.5) within the <answer> </answer> tags.",
    ProblemType.OCR: "Please provide the text that you read, word for word, within the <answer> </answer> tags.",
    ProblemType.FREE_FORM: "Please provide your answer as text within the <answer> </answer> tags.",
    ProblemType.REGRESSION:
        "Please provide only your estimate as a number (e.g., 7 or 2.5) within the <answer> </answer> tags.",
})
"""What the answer must look like, by problem type."""

WHOLE_OPTION = "Please provide only the option, word for word, within the <answer> </answer> tags."
"""The same for a multiple choice question whose options have no letters, such as the classes of a data set."""

_LETTERED = re.compile(r"\(?[A-Za-z][.:)]\s")


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A text with ``{question}``, ``{options}`` and ``{instruction}``.

    A line that holds only placeholders disappears where all of them are empty.
    """

    name: str
    text: str
    options_header: str = ""
    """Line above the options; left out, like them, when a sample has none."""
    instructions: Mapping[ProblemType, str] = field(default_factory=lambda: INSTRUCTIONS)

    def render(self, sample: VideoSample) -> str:
        """The text item of the message. Braces in the question or the options are safe."""
        header = [self.options_header] if self.options_header and sample.options else []
        values = {
            "question": sample.problem,
            "options": "\n".join([*header, *sample.options]),
            "instruction": self._instruction(sample),
        }
        return "\n".join(line.format_map(values) for line in self.text.split("\n") if not _is_empty(line, values))

    def _instruction(self, sample: VideoSample) -> str:
        by_words = sample.problem_type is ProblemType.MULTIPLE_CHOICE and not have_letters(sample.options)
        return WHOLE_OPTION if by_words else self.instructions[sample.problem_type]


TEMPLATES: Mapping[str, PromptTemplate] = MappingProxyType({
    "video_r1": PromptTemplate(
        "video_r1",
        "{question}\n{options}\n"
        "Please think about this question step by step, the way a careful person would: consider what the frames show, "
        "check your reasoning and correct it where needed. "
        "Provide your detailed reasoning between the <think> </think> tags, "
        "and then give your final answer between the <answer> </answer> tags. {instruction}",
        options_header="Options:",
    ),
    "compact": PromptTemplate("compact", "{question}\n{options}"),
})
"""``video_r1`` follows Video-R1 (question, options, request to think, instruction by type) in our own words;
``compact`` is the question and its options alone, for models too small to read instructions."""


def prompt_template(source: str) -> PromptTemplate:
    """Look up a template by name, or make one from a text that holds ``{question}``.

    Raises:
        ConfigError: no such name, a placeholder that does not exist, or unbalanced braces.
    """
    if source in TEMPLATES:
        return TEMPLATES[source]
    if "{" not in source:
        raise ConfigError(f"prompt template '{source}': no such template.{nearest(source, TEMPLATES)} "
                          f"Allowed: {', '.join(TEMPLATES)}, or a text with {{question}}")
    try:
        names = {name for line in source.split("\n") for _, name, _, _ in Formatter().parse(line) if name is not None}
    except ValueError as error:
        raise ConfigError(f"prompt template {source[:40]!r}: {error}; write a literal brace twice") from None
    for name in sorted(names.difference(PLACEHOLDERS)):
        raise ConfigError(f"prompt template {source[:40]!r}: unknown placeholder '{{{name}}}'."
                          f"{nearest(name, PLACEHOLDERS)} Allowed: {{question}}, {{options}}, {{instruction}}")
    if "question" not in names:
        raise ConfigError(f"prompt template {source[:40]!r}: {{question}} is missing; say where the question goes")
    return PromptTemplate("custom", source)


def build_messages(sample: VideoSample, template: PromptTemplate) -> list[dict[str, Any]]:
    """One user turn with one video or image item and one text item, as Qwen's chat templates expect it."""
    return ask_about(sample, template.render(sample))


def ask_about(sample: VideoSample, text: str) -> list[dict[str, Any]]:
    """The same with a text of its own about the sample's video or image."""
    kind = str(sample.media_type)
    return [{"role": "user", "content": [{"type": kind, kind: sample.media}, {"type": "text", "text": text}]}]


def letter_options(options: Sequence[str]) -> tuple[str, ...]:
    """``("blue", "white")`` as ``("A. blue", "B. white")``; options that all have letters stay as they are."""
    if have_letters(options):
        return tuple(options)
    return tuple(f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(options))


def have_letters(options: Sequence[str]) -> bool:
    """Whether all options begin as in ``A. blue``, ``(A) blue`` or ``A: blue``."""
    return all(_LETTERED.match(f"{option} ") for option in options)


def extract_answer(text: str) -> str | None:
    """Content of the first answer block, stripped; None without one."""
    return _first_block("answer", text)


def extract_think(text: str) -> str | None:
    """Content of the first think block, stripped; None without one."""
    return _first_block("think", text)


def _first_block(tag: str, text: str) -> str | None:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return found.group(1).strip() if found else None


def _is_empty(line: str, values: Mapping[str, str]) -> bool:
    parts = list(Formatter().parse(line))
    names = [name for _, name, _, _ in parts if name is not None]
    return bool(names) and not any(literal.strip() for literal, *_ in parts) and not any(values[name] for name in names)
