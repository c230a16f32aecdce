"""Finds out what a folder or name stands for, and loads it to be served.

Imports torch only for policies that need it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rdvla.assets import find_policy
from rdvla.errors import ConfigError, RDVLAError
from rdvla.policy.run_folder import RUN_RECORD, find_checkpoint
from rdvla.serving.policies import ExportedPolicy, TorchPolicy
from rdvla.serving.queries import PolicyFacts, ServedPolicy

if TYPE_CHECKING:
    from rdvla.policy import RDVLAPolicy

POLICY_CONFIG = "config.json"  # in a policy's folder
ONNX_EXPORT = "runtime.json"  # in a folder written by `rdvla export`
COMPILED_HEAD = "compiled.json"  # in one written by `rdvla export --part head --format aoti`


def load_policy(
    source: str | Path,
    *,
    name: str,
    compiled: bool | str | Path = False,
    threads: int | None = None,
    device: str = "auto",
) -> ServedPolicy:
    """Load a policy to be served.

    Args:
        source: folder of a policy or of its ONNX export, run directory, name of a policy that ships, or hub
            id.
        name: what robots call it.
        compiled: compile the head now, which takes up to a minute; or the folder of code that was compiled
            ahead of time from this policy's head. That is native code: load your own only.
        threads: of torch or onnxruntime in this process; their choice if not given.
        device: auto, an accelerator if there is one, or cpu.

    Raises:
        ConfigError: an export is to be compiled, or there is no such device.
        RDVLAError: the source is no policy, or cannot be loaded; the message names the file.
    """
    folder = Path(source)
    if find_policy(source) is None and folder.is_dir():
        if (folder / ONNX_EXPORT).is_file():
            if compiled:
                raise ConfigError(f"{folder} is an ONNX export: its head cannot be compiled again")
            return _load_onnx(folder, name=name, threads=threads)
        known = any((folder / file).is_file() for file in (POLICY_CONFIG, RUN_RECORD))
        if not known and find_checkpoint(folder) is None:
            raise RDVLAError(f"{folder} is no policy: {_what_it_lacks(folder)}")
    return _load_torch(source, name=name, compiled=compiled, threads=threads, device=device)


def _what_it_lacks(folder: Path) -> str:
    if (folder / COMPILED_HEAD).is_file():
        return (
            "it holds a compiled head alone. Give the policy that it was made from, and this folder as its "
            "compiled code"
        )
    return (
        f"it has neither {POLICY_CONFIG} as a policy has, nor {ONNX_EXPORT} as an ONNX export has, nor "
        f"{RUN_RECORD} as a training run has"
    )


def _load_onnx(folder: Path, *, name: str, threads: int | None) -> ServedPolicy:
    from rdvla.runtime import OnnxPolicy

    policy = OnnxPolicy.load(folder, threads=threads)
    described = policy.description
    facts = PolicyFacts(
        name=name,
        form="onnx",
        fingerprint=described.weights,
        fits=described.fits,
        state_dim=described.state_dim,
        action_dim=described.action_dim,
        chunk_size=described.chunk_size,
        stop=described.stop,
        execution=described.execution,
        start=described.start,
        instructions=described.instructions,
    )
    return ExportedPolicy(policy, facts)


def _load_torch(
    source: str | Path, *, name: str, compiled: bool | str | Path, threads: int | None, device: str
) -> ServedPolicy:
    import torch

    from rdvla.policy import RDVLAPolicy, choose_device

    if threads is not None:
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        torch.set_num_threads(threads)
    policy = RDVLAPolicy.from_pretrained(source).to(choose_device(device))
    return TorchPolicy(policy, _facts(policy, name=name, form=_compile(policy, compiled=compiled)))


def _compile(policy: RDVLAPolicy, *, compiled: bool | str | Path) -> str:
    """Give the policy the engine that is asked for; return the name of its form."""
    from rdvla.engine import compile, load_compiled, recurrent

    if not compiled:
        return "torch"
    if compiled is True:
        policy.engine = compile(policy.head)
        return "compiled"
    policy.engine = load_compiled(recurrent(policy.head), compiled)
    return "aoti"


def _facts(policy: RDVLAPolicy, *, name: str, form: str) -> PolicyFacts:
    from rdvla.hashing import fingerprint
    from rdvla.heads import RecurrentDepthHead
    from rdvla.policy.records import trained_instructions

    config = policy.config
    return PolicyFacts(
        name=name,
        form=form,
        fingerprint=fingerprint(policy),
        fits=config.fits,
        state_dim=config.state_dim,
        action_dim=config.head.action_dim,
        chunk_size=config.head.chunk_size,
        stop=config.stop,
        execution=config.execution,
        start=config.start,
        robot=config.robot,
        instructions=trained_instructions(policy.records),
        iterates=isinstance(policy.head, RecurrentDepthHead),
        action_range=_action_range(policy),
        grippers=config.kept_actions,
    )


def _action_range(policy: RDVLAPolicy) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What normalised actions from -1 to 1 are in the robot's units: the range of the demonstrations."""
    import torch

    ends = torch.ones(2, policy.config.head.action_dim) * torch.tensor([[-1.0], [1.0]])
    real = policy.action_normalizer.unnormalize(ends)
    return tuple(real.amin(dim=0).tolist()), tuple(real.amax(dim=0).tolist())
