"""Optional ways of one array library for named hot spots; `arrays.py` chooses them.

A kernel is never needed: without it the generic source gives the same numbers.
"""
