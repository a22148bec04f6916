"""The console: pages in the browser, on the service's own application and its own read functions."""
