"""The demo: a chain over photographs, with a few that ship."""
