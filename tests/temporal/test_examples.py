"""N2 on Temporal: the example chains, unchanged, on two stand-in servers, executed by workers."""

from tests.comfyui.test_examples import *  # noqa: F403
