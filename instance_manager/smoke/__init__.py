"""IS AN EXTENSION IMAGE GOOD? A server is started with it, and all that is in it is used."""
