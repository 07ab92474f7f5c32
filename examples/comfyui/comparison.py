"""The Python step of `chain.yaml`."""

import base64

from towpath import Artifact, File, step


@step
async def page(before: Artifact, after: Artifact) -> File:
    """Both pictures beside each other on a web page."""
    lines = []
    for name, picture in (("before", before), ("after", after)):
        data = base64.b64encode(await picture.read_bytes()).decode()
        lines.append(f'<img alt="{name}" src="data:{picture.media_type};base64,{data}">\n')
    return File("".join(lines).encode(), filename="comparison.html")
