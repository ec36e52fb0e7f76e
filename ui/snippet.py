"""The current sliders as code that can be pasted. Knows the API's shape only."""

import json
from typing import Any


def both(base: str, steering: dict[str, Any] | None, message: str, system: str) -> tuple[str, str]:
    """Return a curl line and a Python program for the official client."""
    messages = [*([{"role": "system", "content": system}] if system.strip() else []), {"role": "user", "content": message}]
    body: dict[str, Any] = {"model": "harbor", "messages": messages} | ({"steering": steering} if steering else {})
    quoted = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
    curl = f"curl {base}/chat/completions \\\n  -H 'Content-Type: application/json' \\\n  -d '{quoted}'"
    extra = f",\n    extra_body={{'steering': {steering!r}}}" if steering else ""
    python = (
        f"from openai import OpenAI\n\nclient = OpenAI(base_url={base!r}, api_key='none')\n"
        f"reply = client.chat.completions.create(\n    model='harbor',\n    messages={messages!r}{extra},\n)\n"
        "print(reply.choices[0].message.content)\n")
    return curl, python
