"""HOW DO WE SPEAK WITH IT? Its programs, files, processes and connections."""
