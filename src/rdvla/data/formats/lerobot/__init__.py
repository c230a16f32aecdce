"""What LeRobot's format versions share: files, info.json, cameras, and reading by episode."""
