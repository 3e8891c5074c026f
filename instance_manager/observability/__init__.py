"""WHAT DO WE SAY? Log lines, events and metrics."""
