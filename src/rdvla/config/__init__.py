"""Configurations: dataclasses filled from a YAML file and dotted overrides, checked option by option."""

from rdvla.config.load import decode_config, encode_config, load_config, save_config

__all__ = ["decode_config", "encode_config", "load_config", "save_config"]
