"""PID 1 of an immutable PostgreSQL container, and the tools around it.

Nothing is imported here: what this package's import costs, every start of postgres pays.
"""

__version__ = "0.1.0"
