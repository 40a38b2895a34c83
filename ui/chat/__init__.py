"""The chat tab: layout, event handlers and export."""
