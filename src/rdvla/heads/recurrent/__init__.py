"""The paper's head. Read model.py first."""
