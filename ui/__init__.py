"""The web page of the service, built with Gradio. `ui.app.mount` adds it to a FastAPI app."""
