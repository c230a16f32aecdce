"""What ships with the package: configurations, a small policy, and a few observations to try it on.

Names stand for files: ``reproduce/recurrent`` for the configuration that `rdvla train --config` takes, and
``metaworld`` for the policy that `RDVLAPolicy.from_pretrained` takes.
"""

from __future__ import annotations

from pathlib import Path

from rdvla.errors import ConfigError, nearest

FOLDER = Path(__file__).parent
CONFIGS = FOLDER / "configs"
POLICIES = FOLDER / "policies"
OBSERVATIONS = FOLDER / "observations.safetensors"


def config_names() -> list[str]:
    """Return the names of the shipped configurations."""
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))


def policy_names() -> list[str]:
    """Return the names of the shipped policies."""
    return sorted(path.name for path in POLICIES.iterdir() if path.is_dir())


def find_config(name_or_path: str) -> Path:
    """Return the YAML file that is meant: a path if there is such a file, otherwise a shipped configuration.

    Raises:
        ConfigError: there is neither; the message lists what ships.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    names = config_names()
    if name_or_path in names:
        return CONFIGS / f"{name_or_path}.yaml"
    raise ConfigError(
        f"the configuration file {name_or_path} does not exist, and no configuration of this name ships."
        f"{nearest(name_or_path, names)} Shipped: {', '.join(names)}"
    )


def find_policy(name: str | Path) -> Path | None:
    """Return the folder of the shipped policy `name`; None if there is none. A folder of this name wins."""
    ships = str(name) in policy_names() and not Path(name).is_dir()
    return POLICIES / name if ships else None
