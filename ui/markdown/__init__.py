"""The Markdown of answers as the page draws it."""
