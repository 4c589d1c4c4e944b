"""``/docs``: what the API's description (``/openapi.json``) says, as a page."""
