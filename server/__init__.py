"""The HTTP service: streamed answers over Server-Sent Events, WebSocket, JSON and the OpenAI API."""
