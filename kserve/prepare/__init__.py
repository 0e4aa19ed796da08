"""Public corpora as the text files that recipes read: PREFIX.source and PREFIX.target, aligned by lines."""
