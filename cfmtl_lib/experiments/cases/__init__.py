"""The two case studies of the book."""
