"""Look into datasets, check them, convert them, merge and split them."""
