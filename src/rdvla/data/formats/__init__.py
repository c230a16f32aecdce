"""Dataset formats: each is one file or folder behind the protocols of `base`, listed in `registry`."""
