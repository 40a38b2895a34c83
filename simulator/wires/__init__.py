"""The vendors' wire formats, one module each, which parse requests and encode answers. They perform no I/O."""
