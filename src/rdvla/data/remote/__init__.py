"""Datasets that lie elsewhere: numbers are copied at once, files with images when they are needed."""
