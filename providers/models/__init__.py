"""Facts about models: settings and limits, tokenizers, and the fitting of a request to them."""
