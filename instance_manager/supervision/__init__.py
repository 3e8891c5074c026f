"""WHAT HAPPENS NEXT? States, restarts, shutdown, and the one owner of every process."""
