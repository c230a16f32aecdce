"""Fully sharded training (FSDP2): each rank keeps a share of every weight, its gradient and its averages.

Layers of the backbone are gathered one after the other, as they run. All other weights, the head among them,
are gathered once per update: every iteration uses the head. Checkpoints and policies hold whole weights, so a
run may go on in one process, or in several that share nothing out.

Torch's own `fully_shard` is called, which Accelerate's FSDP2 calls as well. Accelerate 1.15 leaves it out on
processors, and prepares an optimiser that the run makes for itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from rdvla.heads import Loss
from rdvla.policy import RDVLAPolicy
from rdvla.training.acceleration import blocks_of

# What training calls of a policy next to `forward`, and what needs its weights.
CALLED = ("initial_state", "errors", "perception_error", "predict_batch")


def shard(policy: RDVLAPolicy) -> None:
    """Share out a policy's weights over all ranks, in place; those of rank 0 become those of all.

    Parameters are replaced, so an optimiser is made afterwards.

    Args:
        policy: the same on every rank, up to rounding.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # It warns of in-place changes to a layer's output, of which there are none.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    for parameter in policy.parameters():
        parameter.data = parameter.data.contiguous()  # as shares must be; convolutions may be channels last
        dist.broadcast(parameter.data, src=0)
    for buffer in policy.buffers():
        dist.broadcast(buffer, src=0)
    _make_loss_readable()
    mesh = init_device_mesh(policy.device.type, (dist.get_world_size(),))
    for layer in blocks_of(policy.backbone):
        fully_shard(layer, mesh=mesh)
    fully_shard(policy, mesh=mesh)
    for method in CALLED:
        register_fsdp_forward_method(policy, method)


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather what is shared out; all ranks call this alike. Other tensors are returned as they are."""
    return {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in tensors.items()
    }


def like(value: Tensor, own: Tensor) -> Tensor:
    """Return this rank's share of a whole tensor if `own` is shared out, else the tensor."""
    if not isinstance(own, DTensor):
        return value
    # Every rank has the whole tensor, so none sends anything.
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


@contextmanager
def whole_weights(policy: RDVLAPolicy) -> Iterator[None]:
    """Let `state_dict` return whole weights in a `with` block, so that one rank may write them alone.

    Args:
        policy: all ranks enter alike if it is shared out; otherwise nothing happens.
    """
    if not is_sharded(policy):
        yield
        return
    weights = whole(policy.state_dict())

    def replace(prefix_of_module: str) -> Any:
        def hook(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
            for name in state:
                if name.startswith(prefix):
                    state[name] = weights[prefix_of_module + name[len(prefix) :]]

        return hook

    hooks = [
        policy.register_state_dict_post_hook(replace("")),  # type: ignore[no-untyped-call]
        policy.backbone.register_state_dict_post_hook(  # type: ignore[no-untyped-call]
            replace("backbone.")
        ),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def forget_gathered(module: nn.Module) -> None:
    """Free what ranks gathered of a module's weights, because their own shares have changed.

    Gradient-free calls, such as those of a validation, keep what they gathered for the next call. Nothing
    happens if the weights are not shared out.
    """
    from torch.distributed.fsdp import FSDPModule

    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def is_sharded(module: nn.Module) -> bool:
    """Return whether a module's weights are shared out."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def _make_loss_readable() -> None:
    """Let torch find the tensors of a `Loss`: their gradients tell it which weights to gather."""
    if Loss not in torch.utils._pytree.SUPPORTED_NODES:
        torch.export.register_dataclass(Loss)
