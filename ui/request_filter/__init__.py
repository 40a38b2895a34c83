"""The requests of the page's library that are served, and what their bodies may hold."""
