"""What all benchmarks share: processes that take turns, problems, pages of results.

The sides that are compared are in `sides`, which imports this package; this one imports no side.
"""
