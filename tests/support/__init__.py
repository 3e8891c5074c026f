"""What several tests need: a manager as a process, a server tree, an API to ask."""
