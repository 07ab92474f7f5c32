"""A stand-in for a ComfyUI server: its protocol, its node types without models, and its ways to fail.

It answers as a real 0.33 server was seen to answer, older versions on request. `faults.py` lists what can be made
to go wrong. Start it with `python -m tests.comfyui.server`, or in a test with `tests.comfyui.running.comfy_server`.
"""
