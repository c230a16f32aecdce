"""Exports that several tests share, because each takes seconds to make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rdvla.export import Report, export_policy
from rdvla.policy import RDVLAPolicy
from tests.support.tiny_models import BACKBONE, CONFIG, make_policy


@pytest.fixture(scope="session")
def policy() -> RDVLAPolicy:
    """A whole policy whose image encoder runs in bfloat16 and whose gripper is an opening."""
    config = replace(
        CONFIG,
        backbone=replace(BACKBONE, conv_bfloat16=True),
        unscaled_actions=(3,),
        gripper_opening=(3,),
        clip_state=True,
        stop="action_change:0.001:2:12",
        start="final",
    )
    return make_policy(config)


@pytest.fixture(scope="session")
def report(policy: RDVLAPolicy, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return export_policy(policy, tmp_path_factory.mktemp("export") / "policy")


@pytest.fixture(scope="session")
def exported(report: Report) -> Path:
    return report.folder
