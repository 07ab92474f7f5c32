"""The HTTP API and the pages: `application.create_app` makes an ASGI app over an engine.

One table (`routes.py`) says which addresses there are, who may use them, and what they take and give; routing, roles
and the OpenAPI document all come from it. Reading order: route_table, doorkeeper, routes, application.
"""
