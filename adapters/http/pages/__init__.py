"""Pages for people: inbox, runs, files. Rendered on the server; scripts only make them nicer.

`PAGES` is what a server routes; `static_file` serves what they are drawn with. Everything a page shows is
read through the engine and the store, and reaches its template as plain data. Reading order: run_picture, drawing,
reviewing, gates, runs, steps, files.
"""

from __future__ import annotations

from towpath.adapters.http.principals import ANYONE
from towpath.adapters.http.route_table import Page

from . import entering, files, gallery, gates, runs, steering, steps
from .forms import as_page, error_page, refusal_page
from .linked import link_page
from .rendering import static_file

__all__ = ["PAGES", "error_page", "link_page", "refusal_page"]

PAGES: tuple[Page, ...] = (
    Page("GET", "/static/{version}/{name}", ANYONE, static_file),
    Page("GET", "/login", ANYONE, as_page(entering.login)),
    Page("GET", "/", "viewer", as_page(gates.inbox)),
    Page("GET", "/approvals/{id}", "viewer", as_page(gates.approval)),
    Page("POST", "/approvals/{id}/approve", "approver", as_page(gates.approve)),
    Page("POST", "/approvals/{id}/reject", "approver", as_page(gates.reject)),
    Page("POST", "/approvals/{id}/edit", "approver", as_page(gates.replace)),
    Page("GET", "/runs", "viewer", as_page(runs.runs)),
    Page("GET", "/runs/{id}", "viewer", as_page(runs.run)),
    Page("GET", "/runs/{id}/history", "viewer", as_page(runs.history)),
    Page("GET", "/runs/{id}/artifacts", "viewer", as_page(gallery.files_of_run)),
    Page("GET", "/runs/{id}/steps/{step}", "viewer", as_page(steps.step)),
    Page("GET", "/runs/{id}/steps/{step}/{item:int}", "viewer", as_page(steps.step)),
    Page("POST", "/runs/{id}/cancel", "operator", as_page(steering.cancel)),
    Page("POST", "/runs/{id}/pause", "operator", as_page(steering.pause)),
    Page("POST", "/runs/{id}/resume", "operator", as_page(steering.resume)),
    Page("POST", "/runs/{id}/rerun", "operator", as_page(steering.rerun)),
    Page("GET", "/artifacts", "viewer", as_page(gallery.files)),
    Page("GET", "/artifacts/{id}", "viewer", as_page(files.file)),
    Page("GET", "/artifacts/{id}/thumbnail", "viewer", gallery.thumbnail),
    Page("GET", "/artifacts/{id}/compare/{other}", "viewer", as_page(files.compared)),
    Page("POST", "/artifacts/{id}/edit", "approver", as_page(files.replace_file)),
)
"""Every page, with the least role that it needs."""
