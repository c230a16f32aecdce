"""Find what is wrong with a dataset, also with one that cannot be opened."""
