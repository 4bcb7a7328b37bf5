"""The other side of `corruption.py`: corruption layers of other libraries, timed and looked at in an environment of their own.

`corruption.py` starts this with the Python of that environment. It reads one JSON object per line and answers with one, so that
both sides take turns within one run. It imports nothing of Squall: albumentationsx is AGPL, and stays out of its processes.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable

os.environ |= {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
warnings.filterwarnings("ignore")

import albumentations  # noqa: E402
import cv2  # noqa: E402
import imagecorruptions  # noqa: E402
import kornia.augmentation  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

Layer = Callable[[object], object]


def albumentations_layer(name: str, options: dict) -> Layer:
    """One draw of parameters for the clip, by its `images=`: the library's way with video."""
    transform = albumentations.Compose([getattr(albumentations, name)(p=1, **options)])
    return lambda frames: transform(images=frames)["images"]


def kornia_layer(name: str, options: dict) -> Layer:
    """Float (1, T, C, H, W) in and out: what it costs to turn a clip into that and back is not counted.

    Several names joined by + are composed, each with the options under its name.
    """
    names, given = name.split("+"), options["layer"]
    parts = [getattr(kornia.augmentation, part)(p=1.0, **(given if part == name else given.get(part, {}))) for part in names]
    sequence = kornia.augmentation.VideoSequential(*parts, data_format="BTCHW", same_on_frame=options["same_on_frame"])
    return torch.inference_mode()(lambda clip: sequence(clip))


def imagecorruptions_layer(name: str, options: dict) -> Layer:
    """Frame by frame, as its users do; it knows single pictures."""
    return lambda frames: np.stack([imagecorruptions.corrupt(frame, corruption_name=name, **options) for frame in frames])


MAKERS = {"albumentationsx": albumentations_layer, "kornia": kornia_layer, "imagecorruptions": imagecorruptions_layer}


def given(library: str, frames: np.ndarray) -> object:
    """A clip in the form that a library takes."""
    if library != "kornia":
        return frames
    return torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255


def shown(output: object) -> np.ndarray:
    """Its output as uint8 (T, H, W, 3)."""
    if isinstance(output, torch.Tensor):
        output = (output[0].permute(0, 2, 3, 1).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return np.asarray(output)


def main() -> None:
    """Requests: {"library", "layer", "options", "clip": file, "save": file or null} -> {"ms"} or {"error"}."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    layers: dict[str, Layer] = {}
    clips: dict[tuple[str, str], object] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            key = json.dumps([request["library"], request["layer"], request["options"]])
            if key not in layers:
                layers[key] = MAKERS[request["library"]](request["layer"], request["options"])
            place = request["library"], request["clip"]
            if place not in clips:
                clips[place] = given(request["library"], np.load(request["clip"]))
            started = time.process_time()
            output = layers[key](clips[place])
            answer = {"ms": 1e3 * (time.process_time() - started)}
            if request["save"]:
                np.save(request["save"], shown(output))
        except Exception as error:  # a layer that does not run with today's libraries is a result
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
