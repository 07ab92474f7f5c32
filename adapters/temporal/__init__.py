"""The Temporal adapter: drives the same pure run state as the local adapter, in a generic workflow."""
