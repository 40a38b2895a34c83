"""The page: what a person sees. `page.mount` puts it on a service."""
