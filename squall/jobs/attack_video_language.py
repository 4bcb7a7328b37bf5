"""A video-language model as the victim of a run: one multiple choice question about every clip."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import ray
from pydantic import Field
from ray.exceptions import RayError
from rich.console import Console

from squall.actors.cluster import namespace_for
from squall.actors.resources import Demand
from squall.actors.rollout_engine import EngineConfig, RolloutEngine
from squall.actors.victim_options import OptionsSource, letter_tokens
from squall.jobs.attack_image_plan import LARGEST_NAME, NAME, short_path
from squall.jobs.attack_video_clips import class_numbers
from squall.jobs.attack_video_victims import VideoVictim
from squall.jobs.console import counted, phase
from squall.jobs.evaluated_model import hash_model
from squall.jobs.question import find_processor
from squall.platform.config import Config
from squall.platform.errors import SquallError, cause
from squall.platform.image_data import ImageSet
from squall.platform.models import resolve_model_path
from squall.platform.prompts import letter_options, prompt_template
from squall.platform.runs import RunDirectory


class LanguageVictimConfig(Config):
    """A video-language model that is asked one multiple choice question about every clip."""

    path: str = "@embedded"
    """Hugging Face directory or id; `@embedded` is the policy that ships with Squall."""
    question: str
    """What is asked about every clip."""
    options: tuple[str, ...] = ()
    """Options, without letters; by default the classes of the clips, which have to be among them."""
    template: str = "compact"
    """How question and options are put: compact, video_r1 or another prompt template."""
    fps: float = Field(4.0, gt=0)
    """Frames per second that clips stand for."""
    timeout_s: float = Field(600.0, gt=0)
    """How long the engines may take for a batch."""
    engine: EngineConfig = EngineConfig()
    """Engines that hold the model."""
    name: str | None = Field(None, max_length=LARGEST_NAME, pattern=f"^{NAME}$")
    """Name in tables and pages; by default the last part of `path`."""


def check_language(config: LanguageVictimConfig, clips: ImageSet) -> tuple[str, ...]:
    """The options. Raises ConfigError where the model cannot be used, or a class is no option."""
    options = config.options or clips.classes
    class_numbers(language_name(config), options, clips)
    path = resolve_model_path(config.path)
    prompt_template(config.template)
    letter_tokens(find_processor(path), [option.strip("(")[0] for option in letter_options(options)])
    return tuple(options)


def language_name(config: LanguageVictimConfig) -> str:
    """What the run calls a language model."""
    return config.name or short_path(config.path.lstrip("@"))


def start_language_victim(config: LanguageVictimConfig, options: tuple[str, ...], folder: RunDirectory, console: Console,
                          stack: ExitStack) -> VideoVictim:
    """Start the engines, which end when `stack` is closed.

    Raises:
        SquallError: one could not start in time.
    """
    namespace, path, label = namespace_for(f"victim-{time.time_ns()}"), resolve_model_path(config.path), language_name(config)
    places = tuple((f"victim-engine-{number}", namespace) for number in range(config.engine.count))
    with phase(console, f"starting {counted(len(places), 'engine')} with {config.path} (tens of seconds)", "engine", {}):
        place = partial(RolloutEngine.options, namespace=namespace, num_cpus=config.engine.cpus, num_gpus=config.engine.gpus,
                        scheduling_strategy="DEFAULT")
        engines = [place(name=name).remote(path, config.engine, folder.logs / f"{name}.log") for name, _ in places]
        for engine in engines:
            stack.callback(ray.kill, engine)
        try:
            ray.get([engine.ready.remote() for engine in engines], timeout=config.engine.startup_timeout_s)
        except RayError as error:
            raise SquallError(f"victim {label}: an engine could not start: {cause(error)}; see {folder.logs}") from error
    source = OptionsSource(places, path, config.question, options, label, config.fps, config.template, config.timeout_s)
    return VideoVictim(label, config.path, source, hash_model(Path(path)))


def engine_demands(config: LanguageVictimConfig | None) -> list[Demand]:
    """What a language model's engines reserve on the cluster."""
    return [] if config is None else [Demand("victim engine", config.engine.count, config.engine.cpus, config.engine.gpus)]
