"""One module a page; importing them makes their routes."""
