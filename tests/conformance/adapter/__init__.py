"""What every adapter must do, one module for each topic. A test module takes the suite with
`from tests.conformance.adapter import *` and gives two fixtures:

- `open_engine`: opens an engine on the test's own store, as often as it is called, with the arguments of
  `towpath.open_engine` that follow the store;
- `commits`: the number of transactions that an engine has recorded so far.

`tests/conformance/gates/` is the second half of the suite and is taken in the same way. Steps and tests signal each
other through files in `folder`, see `chain_steps.py`. Every test ends with `settled`, which checks the rows.
"""

from __future__ import annotations

from tests.conformance.adapter.cancel_pause_resume import *  # noqa: F403
from tests.conformance.adapter.chains_inside import *  # noqa: F403
from tests.conformance.adapter.conditions import *  # noqa: F403
from tests.conformance.adapter.decisions import *  # noqa: F403
from tests.conformance.adapter.describing import *  # noqa: F403
from tests.conformance.adapter.events_logs import *  # noqa: F403
from tests.conformance.adapter.exceptions import *  # noqa: F403
from tests.conformance.adapter.failing import *  # noqa: F403
from tests.conformance.adapter.fakes import *  # noqa: F403
from tests.conformance.adapter.fan_out import *  # noqa: F403
from tests.conformance.adapter.files import *  # noqa: F403
from tests.conformance.adapter.handles import *  # noqa: F403
from tests.conformance.adapter.inputs import *  # noqa: F403
from tests.conformance.adapter.isolation import *  # noqa: F403
from tests.conformance.adapter.limits import *  # noqa: F403
from tests.conformance.adapter.named_limits import *  # noqa: F403
from tests.conformance.adapter.naming import *  # noqa: F403
from tests.conformance.adapter.plain_functions import *  # noqa: F403
from tests.conformance.adapter.processes import *  # noqa: F403
from tests.conformance.adapter.reading import *  # noqa: F403
from tests.conformance.adapter.receiving import *  # noqa: F403
from tests.conformance.adapter.rerun import *  # noqa: F403
from tests.conformance.adapter.retries import *  # noqa: F403
from tests.conformance.adapter.several_lists import *  # noqa: F403
from tests.conformance.adapter.shapes import *  # noqa: F403
from tests.conformance.adapter.starting import *  # noqa: F403
from tests.conformance.adapter.step_logs import *  # noqa: F403
from tests.conformance.adapter.timeouts import *  # noqa: F403
from tests.conformance.adapter.values import *  # noqa: F403
from tests.conformance.runs import *  # noqa: F403
