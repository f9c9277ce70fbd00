"""What the book's pages need: published numbers and notebooks."""
