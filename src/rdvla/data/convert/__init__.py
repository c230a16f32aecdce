"""Turn demonstrations of other formats into a dataset in LeRobot's format v3.0."""
