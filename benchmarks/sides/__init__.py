"""The sides that benchmarks compare, one file for each library.

A side is a function that takes the inputs and a task, and returns a `harness.side.Work`. A
worker process imports its module and calls it; `harness.problem` describes the inputs and the
task of a training step.
"""
