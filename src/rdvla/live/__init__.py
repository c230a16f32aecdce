"""The live page: what every query saw and decided, and the place where a person steps in. No torch."""
