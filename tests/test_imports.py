"""What importing the policy must not bring along."""

import subprocess
import sys


def test_the_policy_needs_no_optional_or_slow_package() -> None:
    unwanted = ("transformers", "matplotlib", "metaworld", "torchvision", "jinja2", "mujoco")
    code = (
        "import sys; from rdvla.policy import RDVLAPolicy;"
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
