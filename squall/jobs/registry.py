"""The jobs that `squall` runs. Adding one is an entry in `JOBS`; the command line follows from it.

Nothing of a job is imported until its command runs, so this file stays free of heavy imports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from squall.platform.errors import nearest

if TYPE_CHECKING:
    from squall.platform.config import Config


@dataclass(frozen=True, slots=True)
class Job:
    """One thing that a user runs."""

    command: tuple[str, ...]
    """One or two words after `squall`."""
    summary: str
    """One line for `squall --help`."""
    example: str
    """A typical command line."""
    module: str
    """Imported when the command runs."""
    config: str
    """Name of the configuration class in `module`."""
    run: str = "run"
    """Name of the function in `module` that takes the configuration and returns the exit status."""
    demands: str | None = None
    """Name of the function in `module` that says, from the configuration, what a run reserves; jobs without cannot be swept."""
    steps: str | None = None
    """Name of the function in `module` that says, from the configuration, how many steps a run takes; by default its ``steps``
    key."""
    title: str = ""
    """Heads the job's reports."""
    report: str | None = None
    """Name of the function in `module` that says, from the configuration, what a reader of the report must know."""
    arguments: tuple[str, ...] = ()
    """Keys that words without ``key=`` fill, in this order; a job without any takes a configuration file there."""
    section: str = ""
    """Heading in `squall --help`; by default the first of two words."""
    rest: str | None = None
    """Key that takes all words from the first one on that is no key or option, as a list."""
    default_config: str | None = None
    """Packaged configuration, such as ``@tgrpo``, used when none is given; None stands for the model's own defaults."""

    @property
    def name(self) -> str:
        return " ".join(self.command)

    @property
    def usage(self) -> str:
        """What stands after the command."""
        if self.rest is not None:
            return f"[--key VALUE ...] {self.rest.upper()} ..."
        return " ".join(argument.upper() for argument in self.arguments) or "[CONFIG]"

    def load(self) -> tuple[type[Config], Callable[[Config], int | None]]:
        """Import the job: its configuration model and its run function."""
        module = import_module(self.module)
        return getattr(module, self.config), getattr(module, self.run)

    def demands_of(self, config: Config) -> Sequence[Any]:
        """What a run of this configuration reserves on the cluster."""
        return getattr(import_module(self.module), self.demands)(config)

    def steps_of(self, config: Config) -> int:
        """How many steps a run of this configuration takes."""
        return getattr(import_module(self.module), self.steps)(config) if self.steps else config.steps

    def report_section(self, config: Config) -> Sequence[str]:
        """The job's own lines of its report."""
        return getattr(import_module(self.module), self.report)(config) if self.report else ()


JOBS: tuple[Job, ...] = (
    Job(
        command=("demo",),
        summary="Train the shipped policy with T-GRPO on the embedded clips; a laptop without a GPU is enough",
        example="squall demo",
        module="squall.jobs.demo",
        config="DemoConfig",
    ),
    Job(
        command=("ask",),
        summary="Ask a model about one clip, clean and corrupted, and see the answers side by side",
        example='squall ask clip.mp4 "What colour is the moving shape?" options="[blue, white]" corruption=heavy_rain',
        module="squall.jobs.ask",
        config="AskConfig",
        arguments=("video", "question"),
    ),
    Job(
        command=("corrupt",),
        summary="Write corrupted copies of videos: one corruption, a sweep or a mixture, with a manifest and a preview",
        example='squall corrupt clips/ corrupted/ spec="heavy_rain 0.6 + night 0.3" --preview',
        module="squall.jobs.corrupt",
        config="CorruptConfig",
        arguments=("source", "output"),
    ),
    Job(
        command=("evaluate",),
        summary="Ask a model every question of a manifest, clean and corrupted, and write a report card",
        example="squall evaluate manifest=my/test.jsonl model.path=Qwen/Qwen2.5-VL-7B-Instruct",
        module="squall.jobs.evaluate",
        config="EvaluateConfig",
    ),
    Job(
        command=("reward",),
        summary="List the rewards, and try one of your own: what is wrong with it and what to do",
        example="squall reward my_rewards:brief --check",
        module="squall.jobs.reward",
        config="RewardJobConfig",
        arguments=("function",),
    ),
    Job(
        command=("doctor",),
        summary="Say what this machine has and what that means for a job",
        example="squall doctor",
        module="squall.jobs.doctor",
        config="DoctorConfig",
    ),
    Job(
        command=("rollouts",),
        summary="Read the answers that a run sampled, and what they earned",
        example="squall rollouts runs/NAME branch=corrupted kind=night order=reward_low",
        module="squall.jobs.rollouts",
        config="RolloutsConfig",
        arguments=("run",),
    ),
    Job(
        command=("report",),
        summary="Write report.html of a run again from its directory; of several evaluations, one page that compares them",
        example="squall report runs/BEFORE runs/AFTER",
        module="squall.jobs.report",
        config="ReportConfig",
        rest="runs",
    ),
    Job(
        command=("replay",),
        summary="Do one step of a run again from disk and compare every number",
        example="squall replay runs/NAME --step 3",
        module="squall.jobs.replay",
        config="ReplayConfig",
        arguments=("run",),
    ),
    Job(
        command=("top",),
        summary="Watch a run on the terminal: phase, curves, where the time goes, workers",
        example="squall top runs/NAME",
        module="squall.jobs.top",
        config="TopConfig",
        arguments=("run",),
    ),
    Job(
        command=("tune",),
        summary="Sweep any job: search keys of its configuration with Ray Tune, write the best one as a file",
        example="squall tune @tgrpo-sweep sweep.trials=8 data.train=my/train.jsonl",
        module="squall.jobs.tune",
        config="TuneConfig",
        section="on a cluster",
    ),
    Job(
        command=("submit",),
        summary="Run any job on a Ray cluster: hand it over, follow it, end with its exit status",
        example="squall submit --address http://head:8265 --secrets [WANDB_API_KEY] train tgrpo @tgrpo output=/shared/runs",
        module="squall.jobs.submit",
        config="SubmitConfig",
        rest="command",
        section="on a cluster",
    ),
    Job(
        command=("jobs",),
        summary="What runs on a Ray cluster: list it, follow a job's output, stop a job",
        example="squall jobs stop train-tgrpo-20261121-120000",
        module="squall.jobs.cluster_jobs",
        config="ClusterJobsConfig",
        arguments=("action", "job"),
        section="on a cluster",
    ),
    Job(
        command=("train", "tgrpo"),
        summary="Reinforcement learning on clean, corrupted and shuffled clips",
        example="squall train tgrpo @tgrpo data.train=my/train.jsonl model.path=Qwen/Qwen2.5-VL-7B-Instruct",
        module="squall.jobs.tgrpo",
        config="TGRPOJobConfig",
        demands="demands",
        title="T-GRPO",
        report="report_section",
        default_config="@tgrpo",
    ),
    Job(
        command=("train", "sft"),
        summary="Supervised fine-tuning on answers and reasoning traces",
        example="squall train sft @sft steps=200",
        module="squall.jobs.sft",
        config="SFTJobConfig",
        demands="demands",
        title="Supervised fine-tuning",
        report="report_section",
        default_config="@sft",
    ),
    Job(
        command=("train", "classifier"),
        summary="Train an image or clip classifier: supervised or REINFORCE, plain or on attacked images",
        example="squall train classifier objective.kind=pg data.format=idx data.path=data/fashion",
        module="squall.jobs.train_classifier",
        config="TrainClassifierConfig",
        demands="demands",
        steps="steps",
        title="Classifier",
        report="report_section",
        default_config="@classifier",
    ),
    Job(
        command=("train", "tats"),
        summary="Train masked video autoencoders with samplers that learn what to mask, by PPO, beside controls",
        example="squall train tats @tats seeds=[1,2,3]",
        module="squall.jobs.train_tats",
        config="TatsConfig",
        demands="demands",
        steps="steps",
        title="Masked video",
        default_config="@tats",
    ),
    Job(
        command=("train", "tats-finetune"),
        summary="Train a video classifier on a masked autoencoder's encoder: all of it, or a linear probe",
        example="squall train tats-finetune encoder=runs/NAME/models/tats/seed-0 data.format=ucf101 data.path=data/UCF101",
        module="squall.jobs.train_tats_finetune",
        config="TatsFinetuneConfig",
        demands="demands",
        steps="steps",
        title="Video classifier",
        report="report_section",
    ),
    Job(
        command=("train", "warm-up"),
        summary="Make the small policy that ships with Squall, from new weights (supervised, some 25 minutes)",
        example="squall train warm-up",
        module="squall.jobs.warm_up",
        config="WarmUpConfig",
    ),
    Job(
        command=("annotate",),
        summary="Make reasoning for supervised fine-tuning: a model answers, and what earns enough is kept",
        example="squall annotate data/train.jsonl data/train-cot.jsonl model.path=Qwen/Qwen2.5-VL-7B-Instruct",
        module="squall.jobs.annotate",
        config="AnnotateConfig",
        arguments=("manifest", "output"),
        section="data",
    ),
    Job(
        command=("data", "embedded"),
        summary="Write the embedded data set: H.264 clips and Video-R1 manifests",
        example="squall data embedded train_clips=2000 directory=data/small",
        module="squall.jobs.embedded_data",
        config="EmbeddedDataConfig",
    ),
    Job(
        command=("data", "import"),
        summary="Make a manifest of a benchmark or data set as it is published: MVBench, Video-MME, UCF101, Kinetics and more",
        example="squall data import ucf101 data/UCF101 data/ucf101-test.jsonl split=test",
        module="squall.jobs.data_import",
        config="DataImportConfig",
        arguments=("format", "source", "output"),
    ),
    Job(
        command=("bench", "build"),
        summary="Build a benchmark of corrupted video from any manifest: clean, and one seeded corruption of each family",
        example='squall bench build data/test.jsonl bench/ licence="CC-BY 3.0, name the authors"',
        module="squall.jobs.bench",
        config="BenchBuildConfig",
        arguments=("manifest", "output"),
        section="benchmarks",
    ),
    Job(
        command=("bench", "verify"),
        summary="Check a benchmark against its card: hashes, files, pairs, and pixels rendered again",
        example="squall bench verify bench/ --render",
        module="squall.jobs.bench_verify",
        config="BenchVerifyConfig",
        arguments=("output",),
        section="benchmarks",
    ),
    Job(
        command=("bench", "export"),
        summary="Write task files, so that lmms-eval asks its models about a benchmark's corrupted copies",
        example="squall bench export bench/ tasks/ name=outdoor_c",
        module="squall.jobs.bench_export",
        config="BenchExportConfig",
        arguments=("source", "output"),
        section="benchmarks",
    ),
    Job(
        command=("attack", "image"),
        summary="Attack image classifiers from all sides: what stands against everything, and signs of gradient masking",
        example="squall attack image models=runs/NAME/model epsilons=[0.1]",
        module="squall.jobs.attack_image",
        config="AttackImageConfig",
        title="Attack",
        section="attacks",
    ),
    Job(
        command=("attack", "video"),
        summary="Attack video classifiers by agents that learn across clips, and by controls under the same budget",
        example="squall attack video @video_attack victim_training=null victim=runs/NAME/model",
        module="squall.jobs.attack_video",
        config="AttackVideoConfig",
        demands="demands",
        steps="steps",
        title="Attacks on clips",
        section="attacks",
        default_config="@video_attack",
    ),
    Job(
        command=("trial",),
        summary="Put ways of training on trial: arms and seeds under equal compute, attacked from all sides, on one page",
        example="squall trial @trial seeds=[1,2,3]",
        module="squall.jobs.trial",
        config="TrialConfig",
        section="attacks",
        default_config="@trial",
    ),
)


def find_job(name: str) -> Job:
    """The job of a command such as ``train tgrpo``. Raises KeyError when there is none."""
    return {job.name: job for job in JOBS}[name]


def suggest(words: Sequence[str], jobs: Sequence[Job] = JOBS) -> str:
    """`` Did you mean '...'?`` for the command nearest to what was typed, or an empty string."""
    for job in jobs:
        if job.command[-1] == words[-1]:
            return f" Did you mean '{job.name}'?"
    return nearest(" ".join(words), dict.fromkeys(name for job in jobs for name in (job.name, job.command[0])))
