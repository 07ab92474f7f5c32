"""The filters of the list of runs: read from the address, kept in it, and as conditions of the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from towpath.adapters.moments import since, until
from towpath.model import ChainStatus
from towpath.run_labels import MAX_TAGS, tag_asked

MAX_TEXT = 200  # characters of a text in a filter


@dataclass(frozen=True, slots=True)
class RunFilter:
    """What a person looks for. Days are in UTC, as all times of the pages."""

    text: str = ""
    chain: str = ""
    statuses: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, query: QueryParams) -> RunFilter:
        """The filter in an address. Words that are no status are left out."""
        asked = query.getlist("status")
        return cls(
            text=_text(query.get("q")),
            chain=_text(query.get("chain")),
            statuses=tuple(str(word) for word in ChainStatus if word in asked),
            tags=tuple(dict.fromkeys(filter(None, map(str.strip, query.getlist("tag")))))[:MAX_TAGS],
            since=_text(query.get("since")),
            until=_text(query.get("until")),
        )

    def __bool__(self) -> bool:
        return self != RunFilter()

    def conditions(self) -> Iterator[tuple[str, str, Any]]:
        """Field, operator and value of each filter; the text is a search. Raises InputInvalid: E_TIME, E_RUN_TAGS."""
        if self.chain:
            yield "name", "contains", self.chain
        if self.statuses:
            yield "status", "eq", self.statuses
        if self.tags:
            yield "tag", "eq", [tag_asked(tag) for tag in self.tags]
        if self.since:
            yield "started_at", "gte", since(self.since, UTC)
        if self.until:
            yield "started_at", "lt", until(self.until, UTC)

    def with_status(self, word: str) -> RunFilter:
        """With this status too, or without it if it is there."""
        others = tuple(one for one in self.statuses if one != word)
        return replace(self, statuses=(*self.statuses, word) if others == self.statuses else others)

    def of_any_status(self) -> RunFilter:
        return replace(self, statuses=())

    def without_tag(self, tag: str) -> RunFilter:
        return replace(self, tags=tuple(one for one in self.tags if one != tag))

    def url(self, after: str = "") -> str:
        """The address of the list with this filter, from a cursor on."""
        pairs = [
            *(("status", word) for word in self.statuses),
            ("q", self.text),
            ("chain", self.chain),
            *(("tag", tag) for tag in self.tags),
            ("since", self.since),
            ("until", self.until),
            ("after", after),
        ]
        given = urlencode([pair for pair in pairs if pair[1]])
        return f"/runs?{given}" if given else "/runs"


def tag_url(key: str, value: str) -> str:
    """The list of all runs with a tag."""
    return RunFilter(tags=(f"{key}={value}" if value else key,)).url()


def _text(given: str | None) -> str:
    return (given or "")[:MAX_TEXT].strip()
