"""The local model: its file, its llama.cpp server, its chat adapter."""
