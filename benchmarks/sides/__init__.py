"""The sides that benchmarks compare: functions that a worker process calls.

Each takes the inputs and a task, and returns a `harness.duel.Work`.
"""
