"""LeRobot's dataset format v3.0: the reader, and the writer for demonstrations."""
