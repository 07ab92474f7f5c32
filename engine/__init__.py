"""towpath: chains of steps that keep every file they make.

    from towpath import Artifact, chain, open_engine, step

This package is light: it describes chains. Database, graph library and adapters are loaded by
`open_engine`, when an engine is opened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .artifact import Artifact as Artifact
from .artifact import File as File
from .chains import Chain as Chain
from .chains import chain as chain
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
from .secrets import Secret as Secret
from .steps import Step as Step
from .steps import step as step

if TYPE_CHECKING:
    from towpath.adapters.wiring import Engine as Engine
    from towpath.adapters.wiring import open_engine as open_engine

    from .chain_file import load_chain as load_chain
    from .run import Run as Run
    from .service import RunHandle as RunHandle

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
    "context",
    "load_chain",
    "open_engine",
    "step",
]

_LAZY = {
    "Engine": "towpath.adapters.wiring",
    "Run": "towpath.run",
    "RunHandle": "towpath.service",
    "load_chain": "towpath.chain_file",
    "open_engine": "towpath.adapters.wiring",
}


def __getattr__(name: str) -> object:
    """Names that cost an import of their own are loaded when they are asked for (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'towpath' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
