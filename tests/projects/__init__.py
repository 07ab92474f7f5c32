"""Three small projects, written as their users would: plain functions over pandas, scikit-learn, Pillow, matplotlib and
pydantic, with no word about threads, files or JSON. `tests/conformance/projects.py` runs them on each adapter.
"""
