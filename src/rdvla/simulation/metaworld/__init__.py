"""MetaWorld."""
