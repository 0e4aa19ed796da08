"""Text in, text out: what of a document is translated, what is kept, and how the two are joined again.

Nothing here runs the engine: `job.py` yields what is to be decoded and is sent what was found.
"""
