"""Camera images on their way into a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rdvla.inputs import check_cameras


def check_images(images: Mapping[str, Tensor], *, cameras: Sequence[str], image_size: int) -> Tensor:
    """Stack the cameras in a fixed order, (B, cameras, H, W, 3) uint8. Nothing is resized or guessed.

    Raises:
        RDVLAError: a camera is missing, or an image is not `image_size` square.
    """
    check_cameras(images, cameras=cameras, image_size=image_size)
    return torch.stack([images[camera] for camera in cameras], dim=1)
