"""Published numbers and notebooks for the book's pages."""
