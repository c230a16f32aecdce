"""Camera images on their way into a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rdvla.errors import RDVLAError, nearest


def check_images(images: Mapping[str, Tensor], *, cameras: Sequence[str], image_size: int) -> Tensor:
    """Stack the cameras in a fixed order, (B, cameras, H, W, 3) uint8. Nothing is resized or guessed.

    Raises:
        RDVLAError: a camera is missing, or an image is not `image_size` square.
    """
    for camera in cameras:
        if camera not in images:
            raise RDVLAError(
                f"the observation lacks the camera {camera!r}; it has {sorted(images)}."
                f"{nearest(camera, images)}"
            )
        height, width = images[camera].shape[1:3]
        if (height, width) != (image_size, image_size):
            raise RDVLAError(
                f"camera {camera!r} gives {width}x{height} images, the policy was trained on "
                f"{image_size}x{image_size}: set the camera to that size, or resize before calling the policy"
            )
    return torch.stack([images[camera] for camera in cameras], dim=1)
