"""A page, and a Markdown block, from records: pure, texts in and texts out. Its templates are beside it."""
