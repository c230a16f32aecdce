"""Take episodes of LeRobot datasets over into new ones: convert, merge and split."""
