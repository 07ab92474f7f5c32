"""towpath: chains of steps that keep every file they make.

    from towpath import Artifact, chain, open_engine, step

This package is light: each name is imported when it is asked for. Database, graph library and adapters are loaded by
`open_engine`, when an engine is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .late import names_of as _names_of

if TYPE_CHECKING:
    from towpath.adapters.wiring import Engine as Engine
    from towpath.adapters.wiring import open_engine as open_engine

    from .artifact import Artifact as Artifact
    from .artifact import File as File
    from .chain_file import load_chain as load_chain
    from .chains import Chain as Chain
    from .chains import chain as chain
    from .codecs import codec as codec
    from .context import StepContext as StepContext
    from .context import context as context
    from .errors import ApprovalRefused as ApprovalRefused
    from .errors import ChainFailed as ChainFailed
    from .errors import ChainInvalid as ChainInvalid
    from .errors import ExpressionFailed as ExpressionFailed
    from .errors import FeatureMissing as FeatureMissing
    from .errors import Fenced as Fenced
    from .errors import InputInvalid as InputInvalid
    from .errors import PromptFailed as PromptFailed
    from .errors import RunRefused as RunRefused
    from .errors import SecretMissing as SecretMissing
    from .errors import ServerFailed as ServerFailed
    from .errors import StepCancelled as StepCancelled
    from .errors import StepFailed as StepFailed
    from .errors import StepNotCompleted as StepNotCompleted
    from .errors import StepNotRegistered as StepNotRegistered
    from .errors import StoreFailed as StoreFailed
    from .errors import TowpathError as TowpathError
    from .errors import ValueRefused as ValueRefused
    from .model import ChainStatus as ChainStatus
    from .model import RetryPolicy as RetryPolicy
    from .model import StepStatus as StepStatus
    from .run import Run as Run
    from .secrets import Secret as Secret
    from .service import RunHandle as RunHandle
    from .steps import Step as Step
    from .steps import step as step
    from .version import __version__ as __version__

if TYPE_CHECKING:  # below `from .run import Run`, by which type checkers take `run` for the module
    from towpath.adapters.scripts import run as run

__all__ = [
    "ApprovalRefused",
    "Artifact",
    "Chain",
    "ChainFailed",
    "ChainInvalid",
    "ChainStatus",
    "Engine",
    "ExpressionFailed",
    "FeatureMissing",
    "Fenced",
    "File",
    "InputInvalid",
    "PromptFailed",
    "RetryPolicy",
    "Run",
    "RunHandle",
    "RunRefused",
    "Secret",
    "SecretMissing",
    "ServerFailed",
    "Step",
    "StepCancelled",
    "StepContext",
    "StepFailed",
    "StepNotCompleted",
    "StepNotRegistered",
    "StepStatus",
    "StoreFailed",
    "TowpathError",
    "ValueRefused",
    "chain",
    "codec",
    "context",
    "load_chain",
    "open_engine",
    "run",
    "step",
]

_HOMES = {
    "towpath.adapters.scripts": "run",
    "towpath.adapters.wiring": "Engine open_engine",
    "towpath.artifact": "Artifact File",
    "towpath.chain_file": "load_chain",
    "towpath.chains": "Chain chain",
    "towpath.codecs": "codec",
    "towpath.context": "StepContext context",
    "towpath.errors": (
        "ApprovalRefused ChainFailed ChainInvalid ExpressionFailed FeatureMissing Fenced InputInvalid "
        "PromptFailed RunRefused SecretMissing ServerFailed StepCancelled StepFailed StepNotCompleted "
        "StepNotRegistered StoreFailed TowpathError ValueRefused"
    ),
    "towpath.model": "ChainStatus RetryPolicy StepStatus",
    "towpath.run": "Run",
    "towpath.secrets": "Secret",
    "towpath.service": "RunHandle",
    "towpath.steps": "Step step",
    "towpath.version": "__version__",
}

if not TYPE_CHECKING:  # type checkers know the names above, and no others
    __getattr__ = _names_of(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
