"""The official Python client: replies as JSON on standard output."""

import json
import sys

from openai import BadRequestError, OpenAI

address, question, steering = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
client = OpenAI(base_url=f"{address}/v1", api_key="none")
asked = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 12}
create = client.chat.completions.create

plain = create(model="small", **asked)
streamed = "".join(c.choices[0].delta.content or "" for c in create(model="small", stream=True, **asked) if c.choices)
steered = create(model="small", extra_body={"steering": steering}, **asked)
persona = create(model="small@bridge", **asked)
legacy = client.completions.create(model="small", prompt=question, temperature=0, max_tokens=12, echo=True)
try:
    create(model="small", extra_body={"steering": {"preset": "nobody"}}, **asked)
    error = ""
except BadRequestError as refused:
    error = refused.message

sys.stdout.write(
    json.dumps(
        {
            "plain": plain.choices[0].message.content,
            "streamed": streamed,
            "steered": steered.choices[0].message.content,
            "persona": persona.choices[0].message.content,
            "applied": steered.model_extra["steering"]["applied"][0]["id"],
            "legacy": legacy.choices[0].text,
            "models": [m.id for m in client.models.list()],
            "error": error,
        }
    )
)
