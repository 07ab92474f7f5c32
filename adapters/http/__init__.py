"""The HTTP API and the pages: `application.create_app` makes an ASGI app over an engine.

One table (`routes.py`) lists all addresses with their roles, bodies and responses. Routing, the check of roles and the
OpenAPI document are made from it. Reading order: route_table, authentication, routes, reading, application.
"""
