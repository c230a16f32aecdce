"""`runtime.json`: what an export holds, and how to run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from rdvla.control import Stop, parse_stop
from rdvla.errors import RDVLAError
from rdvla.manifest import read_manifest, write_manifest
from rdvla.processing.fit import CameraFits, ImageFit, Resize

NAME = "runtime.json"
FORMAT = "rdvla-onnx"
SCHEMA = 3  # graphs take a stop rule per sample; in schema 2 they took one per batch
READABLE = (2, SCHEMA)
GRAPH = "policy.onnx"  # observation or features -> actions
INSTRUCTION_GRAPH = "instruction.onnx"  # tokens -> the input `text` of the other graph
LARGEST = 2**31  # of a whole number
TOKENIZER = "tokenizer.json"  # of a published instruction encoder


@dataclass(frozen=True)
class Description:
    """Everything about an export except its graphs."""

    part: str  # policy, or head: features in, normalised actions out
    precision: str  # fp32, or int8: weights of matrix products
    chunk_size: int  # K
    action_dim: int  # A
    hidden_dim: int  # D, width of the latent state
    initial_state_std: float  # of S_0, a normal distribution cut at three standard deviations
    stop: str  # the rule if none is given, as text for `parse_stop`
    execution: str  # actions that select_action() runs per query, as text for `parse_execution`
    cameras: tuple[str, ...] = ()
    image_size: int = 0  # pixels, square, that images are fitted to
    resize: Mapping[str, Resize] = field(default_factory=dict)  # camera -> how its images are made square
    camera_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # (height, width) in training
    state_dim: int = 0  # S, proprioception
    tokenizer: str = ""  # bytes, or tokenizers: `tokenizer.json`
    longest_instruction: int = 0  # bytes or tokens; 0: no limit
    start: str = "noise"  # where select_action()'s queries start, a kind of `WarmStart`
    instructions: tuple[str, ...] = ()  # that the policy was trained on; empty: unknown
    weights: str = ""  # fingerprint of the exported policy, as in results.json
    stop_per_sample: bool = True  # whether the graph takes a stop rule per sample; not written

    @property
    def fits(self) -> CameraFits:
        """What makes the cameras' images fit, as in training."""
        return CameraFits(
            fits={
                camera: ImageFit(self.image_size, self.resize.get(camera, "pad")) for camera in self.cameras
            },
            sizes=self.camera_sizes,
        )

    def write(self, folder: Path) -> None:
        """Write `runtime.json` with digests of all other files in the folder."""
        content = {key: value for key, value in asdict(self).items() if key != "stop_per_sample"}
        files = [path for path in folder.iterdir() if path.name != NAME]
        write_manifest(folder / NAME, content, form=FORMAT, schema=SCHEMA, files=files)


def read_description(folder: Path) -> Description:
    """Read `runtime.json`, and check that the files it names are whole.

    Raises:
        RDVLAError: it is missing, damaged or of another version, or a file is missing or differs.
    """
    path = folder / NAME
    content, files = read_manifest(path, FORMAT, READABLE, what="policy", made_by="rdvla export")
    if GRAPH not in files:
        raise RDVLAError(f"{path} is damaged: it must name the files of the export. Export the policy again")
    return _decode(content, path)


def _decode(content: dict[str, Any], path: Path) -> Description:
    known = {each.name for each in fields(Description)} - {"stop_per_sample"}
    try:
        schema = content.pop("schema")
        stop = content.pop("stop")
        stop = (_stop_of_schema_2(**stop) if schema == 2 else parse_stop(stop)).describe()
        cameras = _texts(content.pop("cameras"), "cameras")
        instructions = _texts(content.pop("instructions", []), "instructions")
        sizes = {
            camera: (int(height), int(width))
            for camera, (height, width) in content.pop("camera_sizes", {}).items()
        }
        strays = sorted(content.keys() - known)
        if strays:
            raise TypeError(f"unknown entry {strays[0]!r}")
        _check_values(content)
        return Description(
            stop=stop,
            cameras=cameras,
            camera_sizes=sizes,
            instructions=instructions,
            stop_per_sample=schema != 2,
            **content,
        )
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise RDVLAError(f"{path} is damaged: {error}. Export the policy again") from error


def _check_values(content: Mapping[str, Any]) -> None:
    """Check types and ranges of the entries that nothing else looks at."""
    kinds = get_type_hints(Description)
    for name, value in content.items():
        kind = kinds[name]
        if kind is int:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST:
                raise TypeError(f"{name} must be a whole number from 0 to {LARGEST}, got {value!r:.80}")
        elif kind is float:
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
                raise TypeError(f"{name} must be a number above 0, got {value!r:.80}")
        elif kind is str and not isinstance(value, str):
            raise TypeError(f"{name} must be a text, got {value!r:.80}")
    resize = content.get("resize", {})
    if not isinstance(resize, dict) or not set(resize.values()) <= set(get_args(Resize)):
        raise TypeError(f"resize must say {', '.join(get_args(Resize))} for each camera, got {resize!r:.80}")


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError(f"{name} must be a list of texts, got {value!r:.80}")
    return tuple(value)


def _stop_of_schema_2(
    *, kind: str, threshold: float, coda_below: float, min_depth: int, max_depth: int
) -> Stop:
    numbers = {"threshold": threshold, "coda_below": coda_below}
    used = {name: value for name, value in numbers.items() if name in Stop.parameter_names(kind)}
    return Stop(kind, min_depth=min_depth, max_depth=max_depth, **used)
