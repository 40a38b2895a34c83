"""Python clients of the service over SSE and WebSocket: async iterators that reconnect and resume."""
