"""HOW IS A VOLUME MADE? From Debian packages, or a tree that was installed, to an OCI image."""
