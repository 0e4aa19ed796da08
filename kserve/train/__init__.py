"""Training side: model, data, training loop and export. Needs torch (extra `train`)."""
