"""The database of the store as one SQLite file. Implements `towpath.store.backend.Backend`."""
