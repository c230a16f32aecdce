"""Show what a dataset holds: on a terminal, and as one HTML page."""
