"""What every store must do, one module for each topic. A test module takes the suite with
`from tests.conformance.store import *` and gives one fixture, `store`: an open and empty store, which it checks with
`fsck` when the test is over.
"""

from __future__ import annotations

from tests.conformance.store.functions import *  # noqa: F403
from tests.conformance.store.runs import *  # noqa: F403
from tests.conformance.store.schema import *  # noqa: F403
from tests.conformance.store.sessions import *  # noqa: F403
