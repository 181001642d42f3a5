"""The doors: command line, REST, MCP and webhooks, the health and metrics pages; `entrega up` and the demo."""
