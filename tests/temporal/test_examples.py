"""N2 on Temporal: the example chains, unchanged, over two stand-in servers, carried out by workers."""

from tests.comfyui.test_examples import *  # noqa: F403
