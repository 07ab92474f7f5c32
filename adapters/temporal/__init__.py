"""The Temporal adapter: the same pure run state, driven by a generic workflow instead of anyio."""
