"""`squall trial CONFIG`: does a way of training make a classifier robust, or only look so?

Arms are trained with the same compute and several seeds, attacked with the same attacks, shown each other's examples, and
searched for signs of gradient masking. What is trained and what is attacked is kept, so that an interrupted trial goes on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from squall.actors.arm_training import Training, train_all
from squall.actors.cluster import Demand, ResourcePlan, start_ray, stop_ray
from squall.jobs.attack_memory import Targets
from squall.jobs.attack_models import AttackedModel
from squall.jobs.attack_standing import read_standings
from squall.jobs.console import counted, phase, say
from squall.jobs.resume import resume_command
from squall.jobs.trial_card import Key, arm_scores, make_arm, make_contrasts
from squall.jobs.trial_plan import MODELS, TrialConfig, TrialWork, describe_arm, prepare
from squall.platform.attack_card import AttackCard
from squall.platform.errors import SquallError
from squall.platform.image_classifiers import ImageModelConfig, open_image_classifier
from squall.platform.runs import RunDirectory
from squall.platform.work_progress import WorkProgress

JOB = "trial"
