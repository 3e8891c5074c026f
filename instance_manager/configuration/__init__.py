"""WHAT DO WE TELL POSTGRES? Its parameters and its access rules, as text."""
