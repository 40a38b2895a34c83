"""Reports of a run or a comparison: Markdown, HTML, PNG, terminal."""
