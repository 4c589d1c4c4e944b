"""Webhook dialects: one module a sender, each from a parsed body to a :class:`~ingress.webhooks.notice.Notice`."""
