"""WHAT DO DATABASES USE? Their extensions and libraries, read while the server runs."""
