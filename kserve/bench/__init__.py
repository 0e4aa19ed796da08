"""Benchmarks: each checks the answers first, then times, and says on which machine."""
