"""Time of every corruption kind on one clip, beside the corruption layers of other libraries, and what it costs in a pipeline.

    python benchmarks/corruption.py                       # all of it; makes the peers' environment at the first call
    python benchmarks/corruption.py --no-peers --kinds snow,storm
    python benchmarks/corruption.py --folder DIR          # share of decode + corrupt + encode on your own mp4 files

The clip is real, 16 x 224 x 224 x 3 uint8, and all sides have one thread. Figures are medians in milliseconds per clip of the
process's CPU time, which other work on the machine disturbs less than the wall clock's; ours and the peers' take turns, a call
each, in one run. Peers are albumentationsx, kornia and imagecorruptions, in a process and an environment of their own, with
the settings in `PEERS`. kornia works on floats: turning a clip into those is not counted.

A layer is cheap when it does not move. So each is also looked at on a clip that stands still: `frozen` changes nothing from
frame to frame, `moves` is more alike between neighbouring frames than between distant ones (best shifted correlation), and
`redrawn` is not. `slowest_speedup` is the smallest ratio of a peer's time to ours over layers that move or are redrawn; ratios
to frozen ones are printed too and counted apart. `scaling_2` is the throughput of two processes over that of one by the wall
clock, each on a mixed set of all standard kinds. Targets hold where copying the clip takes 0.05 ms and are scaled by what it
takes here.

Results to expect on an idle core: docs/corruption.md; slowest_speedup about 1.9, scaling_2 above 1.8.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
import venv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy starts its threads; workers inherit it

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from squall.algorithms.corruption import KINDS, STANDARD_KINDS, make_spec, render  # noqa: E402
from squall.platform.decoding import read_video  # noqa: E402
from squall.platform.video import FrameSampling, encode_video, load_clip  # noqa: E402

CACHE = Path.home() / ".cache" / "squall-benchmarks"
PACKAGES = ("albumentationsx==2.5.1", "kornia==0.9.0", "imagecorruptions==1.1.2",
            "setuptools<81")  # imagecorruptions imports pkg_resources
TORCH = "torch==2.13.0"
FOOTAGE = Path(str(files("squall.platform") / "embedded" / "footage"))
SEVERITY, SEVERITIES = 0.6, (0.3, 0.6, 1.0)
FPS, SEED = 24.0, 7
LOOK_FPS = 120.0
"""At which our layers are looked at: at 24 fps a hailstone is half a picture further in the next frame."""
TARGET_COPY_MS = 0.05
TARGETS = {"photometric": 1.5, "occlusion": 0.5, "temporal": 0.2, "camera": 6.0, "storm": 15.0,
           "light_rain": 8.0, "heavy_rain": 8.0, "snow": 8.0, "hail": 8.0}
"""Milliseconds by kind or else by family; fog, noise, compression and masks have none."""
PEER_SECONDS = 4.0
"""A peer's layer is not called any more once this much went into it, after three calls."""


@dataclass(frozen=True)
class Peer:
    """A layer of another library; several joined by + are composed."""

    library: str
    layer: str
    options: str
    """JSON, as `corruption_peers.py` takes it."""

    def request(self, clip: Path, save: Path | None = None) -> str:
        return json.dumps({"library": self.library, "layer": self.layer, "options": json.loads(self.options), "clip": str(clip),
                           "save": str(save) if save else None})

    def __str__(self) -> str:
        draws = {True: ", one draw a clip", False: ", a draw a frame", None: ""}
        return f"{self.library} {self.layer}{draws[json.loads(self.options).get('same_on_frame')]}"


def _albumentations(layer: str, **options: object) -> list[Peer]:
    return [Peer("albumentationsx", layer, json.dumps(options))]


def _kornia(layer: str, **options: object) -> list[Peer]:
    """Drawn once for the clip and drawn for every frame: its two ways with video."""
    return [Peer("kornia", layer, json.dumps({"layer": options, "same_on_frame": same})) for same in (True, False)]


def _imagecorruptions(*names: str) -> list[Peer]:
    return [Peer("imagecorruptions", name, json.dumps({"severity": 3})) for name in names]


_DIM = {"brightness": (0.4, 0.8)}
_RAIN = [*_albumentations("RandomRain"), *_kornia("RandomRain")]
PEERS: Mapping[str, Sequence[Peer]] = {
    # Light. Theirs is one factor or curve; dusk adds colour, night grain, overexposure the bleeding of highlights.
    "dusk": [*_albumentations("RandomGamma"), *_kornia("RandomGamma", gamma=(0.5, 2.0)), *_imagecorruptions("brightness")],
    "night": [*_albumentations("RandomBrightnessContrast"), *_imagecorruptions("brightness"),
              *_kornia("RandomBrightness+RandomGaussianNoise", RandomBrightness=_DIM)],
    "overexposure": [*_albumentations("RandomBrightnessContrast"), *_kornia("RandomBrightness", brightness=(1.2, 2.0)),
                     *_imagecorruptions("brightness")],
    "shadow": [*_albumentations("RandomShadow"), *_albumentations("PlasmaShadow"), *_kornia("RandomPlasmaShadow")],
    # Weather. Nobody has hail. A storm is rain and gloom; nobody has its wind, sheets and lightning.
    "light_rain": _RAIN,
    "heavy_rain": _RAIN,
    "storm": _kornia("RandomRain+RandomBrightness", RandomBrightness=_DIM),
    "snow": [*_albumentations("RandomSnow"), *_kornia("RandomSnow", snow_coefficient=(0.2, 0.8)), *_imagecorruptions("snow")],
    "fog": [*_albumentations("AtmosphericFog"), *_albumentations("RandomFog"), *_imagecorruptions("fog")],
    # What lies over the picture. Frost and spatter are, like drops, on the lens.
    "blocks_static": [*_albumentations("CoarseDropout"), *_kornia("RandomErasing")],
    "blocks_dynamic": [*_albumentations("CoarseDropout"), *_kornia("RandomErasing")],
    "lens_drops": [*_albumentations("Spatter"), *_imagecorruptions("spatter", "frost")],
    # The camera. Theirs is one matrix for the clip, or one at random for each frame.
    "translation": [*_albumentations("Affine", translate_percent=(-0.1, 0.1)),
                    *_kornia("RandomAffine", degrees=0.0, translate=(0.1, 0.1))],
    "zoom": [*_albumentations("Affine", scale=(0.8, 1.25)), *_kornia("RandomAffine", degrees=0.0, scale=(0.8, 1.25))],
    "rotation": [*_albumentations("Affine", rotate=(-20, 20)), *_kornia("RandomRotation", degrees=20.0)],
    "shake": [*_albumentations("Affine", rotate=(-5, 5), translate_percent=(-0.05, 0.05)),
              *_kornia("RandomAffine", degrees=5.0, translate=(0.05, 0.05))],
    "motion_blur": [*_albumentations("MotionBlur"), *_kornia("RandomMotionBlur", kernel_size=15, angle=180.0, direction=0.0),
                    *_imagecorruptions("motion_blur")],
    # The sensor. Nobody has a video codec; JPEG of single frames is other work.
    "noise": [*_albumentations("ISONoise"), *_albumentations("GaussNoise"), *_kornia("RandomGaussianNoise"),
              *_imagecorruptions("shot_noise", "gaussian_noise")],
    "mask_pixels": [*_albumentations("PixelDropout"), *_kornia("RandomSaltAndPepperNoise")],
    "mask_blocks": _albumentations("GridDropout"),
}
"""The nearest layers of others by kind. Frames that are lost or change places, masks of tokens: nobody has them."""


class Opponent:
    """The process that the peers' layers run in."""

    def __init__(self, python: Path, clip: np.ndarray, folder: Path) -> None:
        self._folder, self._clip = folder, folder / "clip.npy"
        np.save(self._clip, clip)
        self._process = subprocess.Popen([str(python), str(Path(__file__).with_name("corruption_peers.py"))], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def milliseconds(self, peer: Peer) -> float:
        """Time of one call. Raises RuntimeError with the peer's own error."""
        return self._ask(peer.request(self._clip))["ms"]

    def look(self, peer: Peer, still: np.ndarray) -> np.ndarray:
        """What a layer makes of a clip."""
        given, made = self._folder / "still.npy", self._folder / "made.npy"
        if not given.exists():
            np.save(given, still)
        self._ask(peer.request(given, made))
        return np.load(made)

    def _ask(self, request: str) -> dict:
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)


def peers_python(folder: Path) -> Path:
    """Python of the peers' environment, made at the first call. Raises CalledProcessError."""
    python, done = folder / "bin" / "python", folder / ".complete"
    if not done.exists():
        print(f"making the peers' environment in {folder}: minutes, some 2 GB")
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        small = subprocess.run([*pip, "--dry-run", "--no-deps", f"{TORCH}+cpu"], capture_output=True, check=False)
        subprocess.run([*pip, *PACKAGES, TORCH + ("+cpu" if small.returncode == 0 else "")], check=True)
        done.touch()
    return python


def behaviour(frames: np.ndarray) -> str:
    """Whether a layer is frozen, moves or is redrawn, from uint8 (T, H, W, 3) made of a clip that stands still."""
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.float32)
    if np.abs(np.diff(grey, axis=0)).mean() < 0.01:
        return "frozen"
    layer, half = grey - grey.mean(axis=0), len(grey) // 2
    near, far = (np.mean([_likeness(layer[i], layer[i + gap]) for i in range(half)]) for gap in (1, half))
    return "moves" if near > far + 0.1 else "redrawn"


def _likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Largest correlation of two planes over all shifts, round the edges."""
    norm = np.linalg.norm(first) * np.linalg.norm(second)
    product = np.fft.rfft2(first) * np.fft.rfft2(second).conj()
    return float(np.fft.irfft2(product, first.shape).max() / max(norm, 1e-9))


def milliseconds(clip: np.ndarray, kind: str, severity: float) -> float:
    spec = make_spec(kind, severity, SEED)
    started = time.process_time()
    render(clip, spec, fps=FPS)
    return 1e3 * (time.process_time() - started)


def copy_milliseconds(clip: np.ndarray, target: np.ndarray) -> float:
    """The floor: the best of a few copies, once both clips are in the cache."""
    taken = []
    for _ in range(5):
        started = time.process_time()
        np.copyto(target, clip)
        taken.append(time.process_time() - started)
    return 1e3 * min(taken)


@dataclass
class Times:
    """Milliseconds of every call."""

    ours: dict[tuple[str, float], list[float]]
    peers: dict[Peer, list[float]]
    copy: list[float]

    def our_ms(self, kind: str) -> float:
        return statistics.median(self.ours[kind, SEVERITY])

    def worst_ms(self, kind: str) -> float:
        return max(statistics.median(self.ours[kind, severity]) for severity in SEVERITIES)


def take_turns(clip: np.ndarray, kinds: Sequence[str], peers: Mapping[str, Sequence[Peer]], opponent: Opponent | None,
               rounds: int) -> Times:
    """Call every kind at every severity and every layer, once a round; the first round warms up and is not counted."""
    times = Times(defaultdict(list), defaultdict(list), [])
    target = np.empty_like(clip)
    for turn in range(rounds + 1):
        called = set()
        for kind in kinds:
            copied = copy_milliseconds(clip, target)
            found = {(kind, severity): milliseconds(clip, kind, severity) for severity in SEVERITIES}
            theirs = {}
            for peer in peers.get(kind, ()):
                spent = times.peers[peer]
                if opponent and peer not in called and not (len(spent) >= 3 and sum(spent) > 1e3 * PEER_SECONDS):
                    theirs[peer] = opponent.milliseconds(peer)
                    called.add(peer)
            if turn:
                times.copy.append(copied)
                for place, taken in found.items():
                    times.ours[place].append(taken)
                for peer, taken in theirs.items():
                    times.peers[peer].append(taken)
    return times


def runnable(kinds: Sequence[str], opponent: Opponent, still: np.ndarray) -> tuple[dict[str, list[Peer]], dict[Peer, str]]:
    """The layers that run, by kind, and how each behaves. Says which do not."""
    peers, looks, failed = defaultdict(list), {}, set()
    for kind in kinds:
        for peer in PEERS.get(kind, ()):
            if peer not in looks and peer not in failed:
                try:
                    looks[peer] = behaviour(opponent.look(peer, still))
                except RuntimeError as error:
                    failed.add(peer)
                    print(f"does not run: {peer}: {error}")
            if peer in looks:
                peers[kind].append(peer)
    return peers, looks


def report(kinds: Sequence[str], times: Times, peers: Mapping[str, Sequence[Peer]], looks: Mapping[Peer, str],
           still: np.ndarray) -> dict[str, object]:
    """Print our times against targets and peers. Returns the figures."""
    copy_ms = statistics.median(times.copy)
    scale = copy_ms / TARGET_COPY_MS
    print(f"\ncopying the clip takes {copy_ms:.3f} ms, so targets are scaled by {scale:.2f}\n")
    print(f"{'kind':<21}{'ms at 0.6':>10}{'worst':>8}{'target':>8}{'scaled':>8}  {'':<6}our layer on a still clip")
    missed = []
    for kind in kinds:
        target = TARGETS.get(kind, TARGETS.get(KINDS[kind].family))
        hit = "" if target is None else "hit" if times.worst_ms(kind) <= target * scale else "MISS"
        missed += [kind] if hit == "MISS" else []
        limits = f"{target:>8.1f}{target * scale:>8.2f}" if target else f"{'-':>8}{'-':>8}"
        made = behaviour(render(still, make_spec(kind, SEVERITY, SEED), fps=LOOK_FPS))
        print(f"{kind:<21}{times.our_ms(kind):>10.2f}{times.worst_ms(kind):>8.2f}{limits}  {hit:<6}{made}")
    ratios = _compare(peers, looks, times) if peers else {}
    return {"ms": {kind: round(times.our_ms(kind), 3) for kind in kinds},
            "ms_worst": {kind: round(times.worst_ms(kind), 3) for kind in kinds},
            "copy_ms": round(copy_ms, 4), "missed": missed,
            "slowest_speedup": ratios.get("moves or is redrawn"), "slowest_frozen_ratio": ratios.get("frozen")}


def _compare(peers: Mapping[str, Sequence[Peer]], looks: Mapping[Peer, str], times: Times) -> dict[str, float]:
    """Print each layer's time over ours. Returns the smallest ratio of those that move or are redrawn, and of the frozen."""
    groups = defaultdict(list)
    for kind, layers in peers.items():
        for peer in layers:
            group = "frozen" if looks[peer] == "frozen" else "moves or is redrawn"
            theirs = statistics.median(times.peers[peer])
            groups[group].append((theirs / times.our_ms(kind), kind, peer, theirs))
    for group, rows in sorted(groups.items(), reverse=True):
        print(f"\nbeside layers whose picture {'stands still' if group == 'frozen' else group}\n"
              f"{'kind':<16}{'ours':>8}{'theirs':>9}{'ratio':>8}  their layer")
        for ratio, kind, peer, theirs in sorted(rows, key=lambda row: row[0]):
            print(f"{kind:<16}{times.our_ms(kind):>8.2f}{theirs:>9.2f}{ratio:>8.2f}  {peer} ({looks[peer]})")
    return {group: round(min(row[0] for row in rows), 3) for group, rows in groups.items()}


def work(pipe: Connection, clip: np.ndarray, passes: int) -> None:
    """A worker process: renders all standard kinds `passes` times whenever told to, and says when it is done."""
    cv2.setNumThreads(1)
    specs = [make_spec(kind, severity, SEED) for kind in STANDARD_KINDS for severity in (0.4, 0.8)]
    for spec in specs:
        render(clip, spec, fps=FPS)
    pipe.send("ready")
    while pipe.recv():
        for _ in range(passes):
            for spec in specs:
                render(clip, spec, fps=FPS)
        pipe.send("done")


@contextmanager
def workers(clip: np.ndarray, passes: int) -> Iterator[list[Connection]]:
    """Two spawned worker processes that are warm."""
    context = get_context("spawn")
    pipes = [context.Pipe() for _ in range(2)]
    processes = [context.Process(target=work, args=(theirs, clip, passes)) for _, theirs in pipes]
    for process in processes:
        process.start()
    for ours, _ in pipes:
        ours.recv()
    yield [ours for ours, _ in pipes]
    for ours, _ in pipes:
        ours.send(False)
    for process in processes:
        process.join()


def scaling(clip: np.ndarray, rounds: int, passes: int = 2) -> float:
    """Throughput of two processes over that of one, alternating."""
    taken = defaultdict(list)
    with workers(clip, passes) as pipes:
        for _ in range(rounds):
            for count in (1, 2):
                started = time.perf_counter()
                for pipe in pipes[:count]:
                    pipe.send(True)
                for pipe in pipes[:count]:
                    pipe.recv()
                taken[count].append(time.perf_counter() - started)
    return 2 * statistics.median(taken[1]) / statistics.median(taken[2])


def pipeline_shares(folder: Path, kinds: Sequence[str], frames: int) -> dict[str, float]:
    """Share of decode + corrupt + encode that corrupting takes, by family, over the mp4 files of a folder."""
    decode = encode = 0.0
    corrupt = defaultdict(float)
    by_family = defaultdict(list)
    for kind in kinds:
        by_family[KINDS[kind].family].append(kind)
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted(folder.glob("*.mp4")):
            started = time.perf_counter()
            video = read_video(path, lambda count, _: list(range(min(count, frames))), sample_id=path.name, num_threads=1)
            decode += time.perf_counter() - started
            height, width = (side - side % 2 for side in video.frames.shape[1:3])
            clip = np.ascontiguousarray(video.frames[:, :height, :width])
            for family, members in by_family.items():
                started = time.perf_counter()
                for kind in members:
                    render(clip, make_spec(kind, SEVERITY, SEED), fps=video.fps)
                corrupt[family] += (time.perf_counter() - started) / len(members)
            started = time.perf_counter()
            encode_video(Path(scratch) / "out.mp4", clip, video.fps)
            encode += time.perf_counter() - started
    return {family: taken / (decode + taken + encode) for family, taken in corrupt.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(KINDS), help="these kinds alone")
    parser.add_argument("--no-peers", action="store_true", help="our side alone")
    parser.add_argument("--peers-env", type=Path, default=CACHE / "peers", help="the peers' environment")
    parser.add_argument("--folder", type=Path, default=FOOTAGE, help="mp4 files for the share of corruption in a pipeline")
    parser.add_argument("--frames", type=int, default=144, help="frames taken of each of those files at most")
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    cv2.setNumThreads(1)
    clip = load_clip(FOOTAGE / "city.mp4", FrameSampling(max_frames=16, resize=(224, 224)), sample_id="city").frames
    grey = cv2.cvtColor(clip[0], cv2.COLOR_RGB2GRAY)
    still = np.ascontiguousarray(np.broadcast_to(grey[None, :, :, None], clip.shape))
    with tempfile.TemporaryDirectory() as scratch:
        opponent = None if arguments.no_peers else Opponent(peers_python(arguments.peers_env), clip, Path(scratch))
        peers, looks = runnable(kinds, opponent, still) if opponent else ({}, {})
        times = take_turns(clip, kinds, peers, opponent, arguments.rounds)
        if opponent:
            opponent.close()
    figures = report(kinds, times, peers, looks, still)
    shares = pipeline_shares(arguments.folder, kinds, arguments.frames)
    print("\nshare of decode + corrupt + encode (H.264, one thread) that corruption takes, at severity 0.6:\n"
          + ", ".join(f"{family} {share:.1%}" for family, share in shares.items()))
    scaled = scaling(clip, rounds=5)
    print(f"two processes render {scaled:.2f} times as much as one (target 1.8: {'hit' if scaled >= 1.8 else 'MISS'})")
    rounded = {family: round(share, 4) for family, share in shares.items()}
    print(json.dumps({**figures, "scaling_2": round(scaled, 3), "share": rounded}))


if __name__ == "__main__":
    main()
