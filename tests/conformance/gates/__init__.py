"""What gates must do on every adapter, one module for each topic: the second half of the suite in
`tests/conformance/adapter/`, with the same fixtures. Every test ends with `settled`, which checks the rows; the store
is checked as a whole when the test is over.
"""

from __future__ import annotations

from tests.conformance.gates.answers import *  # noqa: F403
from tests.conformance.gates.decided_once import *  # noqa: F403
from tests.conformance.gates.edits import *  # noqa: F403
from tests.conformance.gates.pictures import *  # noqa: F403
from tests.conformance.gates.regenerate import *  # noqa: F403
from tests.conformance.gates.seed_script import *  # noqa: F403
from tests.conformance.gates.steering import *  # noqa: F403
from tests.conformance.gates.timeouts import *  # noqa: F403
from tests.conformance.runs import folder as folder
