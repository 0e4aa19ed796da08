"""The HTTP side: an app around a translator, and the process that serves it."""
