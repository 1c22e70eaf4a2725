"""Evaluation tasks: one module each, found by scanning this folder.

A module defines `evaluate(run, source, *, ...) -> Table`. The first line of its docstring says what it measures, its
keyword arguments are the options of the task. `test`, `seed` and `progress` mean the same in every task.
"""
