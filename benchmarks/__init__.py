"""Measurements of rdvla; run them with `make bench`."""
