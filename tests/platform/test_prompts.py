import pytest

from squall.platform.errors import ConfigError
from squall.platform.prompts import (
    FORMAT_PATTERN,
    INSTRUCTIONS,
    TEMPLATES,
    build_messages,
    extract_answer,
    extract_think,
    prompt_template,
)
from squall.platform.records import MediaType, ProblemType, VideoSample


def sample(problem_type=ProblemType.MULTIPLE_CHOICE, options=("A. red", "B. {blue}"), media_type=MediaType.VIDEO):
    return VideoSample("s", "clip.mp4", media_type, "Which {colour}?", problem_type, "B", options)


def test_compact_is_question_and_options_and_nothing_else():
    assert TEMPLATES["compact"].render(sample()) == "Which {colour}?\nA. red\nB. {blue}"
    assert TEMPLATES["compact"].render(sample(ProblemType.OCR, ())) == "Which {colour}?"


@pytest.mark.parametrize("problem_type", list(ProblemType))
def test_video_r1_ends_with_the_instruction_of_its_type(problem_type):
    text = TEMPLATES["video_r1"].render(sample(problem_type, ()))
    assert text.startswith("Which {colour}?\nPlease think")
    assert text.endswith(INSTRUCTIONS[problem_type]) and "<answer> </answer> tags." in INSTRUCTIONS[problem_type]
    assert "<think> </think>" in text and "Options:" not in text


def test_video_r1_lists_options_under_a_header():
    lines = TEMPLATES["video_r1"].render(sample()).split("\n")
    assert lines[:4] == ["Which {colour}?", "Options:", "A. red", "B. {blue}"]
    assert "single option letter (e.g., A, B, C, D, etc.)" in lines[4]


def test_user_template():
    template = prompt_template("Q: {question}\n\n{options}\nReply in {{json}}.")
    assert template.render(sample()) == "Q: Which {colour}?\n\nA. red\nB. {blue}\nReply in {json}."
    assert template.render(sample(ProblemType.OCR, ())) == "Q: Which {colour}?\n\nReply in {json}."
    assert prompt_template("compact") is TEMPLATES["compact"]


@pytest.mark.parametrize(("source", "message"), [
    ("compct", "no such template. Did you mean 'compact'?"),
    ("{question} {option}", "unknown placeholder '{option}'. Did you mean 'options'?"),
    ("{options}", "{question} is missing"),
    ("{question", "write a literal brace twice"),
])
def test_wrong_user_templates(source, message):
    with pytest.raises(ConfigError) as caught:
        prompt_template(source)
    assert message in str(caught.value)


@pytest.mark.parametrize("media_type", list(MediaType))
def test_messages_hold_one_media_item_and_one_text_item(media_type):
    (message,) = build_messages(sample(media_type=media_type), TEMPLATES["compact"])
    assert message == {"role": "user", "content": [
        {"type": str(media_type), str(media_type): "clip.mp4"},
        {"type": "text", "text": "Which {colour}?\nA. red\nB. {blue}"},
    ]}


def test_extraction_takes_the_first_block_over_lines_stripped():
    text = "<think>\n a\nb </think> <answer>\n B\n</answer><answer>C</answer>"
    assert extract_answer(text) == "B"
    assert extract_think(text) == "a\nb"
    assert extract_answer("<answer>B") is None and extract_think("B") is None


@pytest.mark.parametrize(("text", "matches"), [
    ("<think>a\nb</think>\n <answer>B</answer>", True),
    ("<think>a</think><answer>B</answer>", True),
    ("so <think>a</think><answer>B</answer>", False),
    ("<think>a</think> so <answer>B</answer>", False),
    ("<think>a</think><answer>B</answer>.", False),
    ("<answer>B</answer>", False),
])
def test_format_pattern(text, matches):
    assert (FORMAT_PATTERN.fullmatch(text) is not None) is matches
