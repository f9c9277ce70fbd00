"""The paper's tables and the book's studies; nothing in the library imports them."""
