"""Models of other programs as run folders of `kserve train`: checkpoint, tokenizer and recipe."""
