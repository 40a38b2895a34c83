"""The local model: its file, its llama.cpp server and its adapter."""
