"""The vendors' wires, one module each: how a request is read, and how an answer is put into bytes. All pure."""
