"""The page's address: the tab that it opens, and the settings that its query names."""
