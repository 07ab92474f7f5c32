"""Pages for people: inbox, runs, files. They are rendered on the server and work without scripts.

`PAGES` are the routes. A page reads a view (`http/reading.py`) and gives plain data to its template. Reading order:
run_picture, reviewing, gates, runs, steps, files.
"""

from __future__ import annotations

from towpath.adapters.http.principals import ANYONE
from towpath.adapters.http.route_table import PageRoute

from . import files, gallery, gates, runs, sign_in, steps
from .forms import as_page, refusal_page
from .rendering import static_file
from .sign_in import link_page

__all__ = ["PAGES", "link_page", "refusal_page"]

PAGES: tuple[PageRoute, ...] = (
    PageRoute("GET", "/static/{version}/{name}", ANYONE, static_file),
    PageRoute("GET", "/login", ANYONE, as_page(sign_in.login)),
    PageRoute("GET", "/", "viewer", as_page(gates.inbox)),
    PageRoute("GET", "/approvals/{id}", "viewer", as_page(gates.approval)),
    PageRoute("POST", "/approvals/{id}/approve", "approver", as_page(gates.approve)),
    PageRoute("POST", "/approvals/{id}/reject", "approver", as_page(gates.reject)),
    PageRoute("POST", "/approvals/{id}/edit", "approver", as_page(gates.replace)),
    PageRoute("GET", "/runs", "viewer", as_page(runs.runs)),
    PageRoute("GET", "/runs/{id}", "viewer", as_page(runs.run)),
    PageRoute("GET", "/runs/{id}/history", "viewer", as_page(runs.history)),
    PageRoute("GET", "/runs/{id}/artifacts", "viewer", as_page(gallery.files_of_run)),
    PageRoute("GET", "/runs/{id}/steps/{step}", "viewer", as_page(steps.step)),
    PageRoute("GET", "/runs/{id}/steps/{step}/{item:int}", "viewer", as_page(steps.step)),
    PageRoute("POST", "/runs/{id}/cancel", "operator", as_page(runs.cancel)),
    PageRoute("POST", "/runs/{id}/pause", "operator", as_page(runs.pause)),
    PageRoute("POST", "/runs/{id}/resume", "operator", as_page(runs.resume)),
    PageRoute("POST", "/runs/{id}/rerun", "operator", as_page(runs.rerun)),
    PageRoute("GET", "/runs/{id}/remove", "admin", as_page(runs.ask_to_remove)),
    PageRoute("POST", "/runs/{id}/remove", "admin", as_page(runs.remove)),
    PageRoute("GET", "/artifacts", "viewer", as_page(gallery.files)),
    PageRoute("GET", "/artifacts/{id}", "viewer", as_page(files.file)),
    PageRoute("GET", "/artifacts/{id}/thumbnail", "viewer", gallery.thumbnail),
    PageRoute("GET", "/artifacts/{id}/compare/{other}", "viewer", as_page(files.compared)),
    PageRoute("POST", "/artifacts/{id}/edit", "approver", as_page(files.replace_file)),
)
"""Every page, with the least role that may open it."""
