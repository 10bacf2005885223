"""A store of MEIs as one page for a browser."""
