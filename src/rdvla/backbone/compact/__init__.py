"""The small backbone, trained from scratch on a CPU, or on frozen published encoders."""
