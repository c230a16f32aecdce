"""Any vision-language model of transformers that yields hidden states over images and text."""
