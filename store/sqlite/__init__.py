"""The store's database as one SQLite file. Fills `towpath.store.backend.Backend`."""
