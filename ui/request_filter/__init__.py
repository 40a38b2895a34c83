"""A filter for requests to the mounted Gradio app: an allowlist of requests and a schema of their bodies."""
