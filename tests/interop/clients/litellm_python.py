"""LiteLLM: replies as JSON on standard output."""

import json
import sys

import litellm

address, question, steering = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
asked = {
    "messages": [{"role": "user", "content": question}],
    "temperature": 0,
    "max_tokens": 12,
    "api_base": f"{address}/v1",
    "api_key": "none",
}

plain = litellm.completion(model="openai/small", **asked)
stream = litellm.completion(model="openai/small", stream=True, **asked)
steered = litellm.completion(model="openai/small", extra_body={"steering": steering}, **asked)
persona = litellm.completion(model="openai/small@bridge", **asked)
try:
    litellm.completion(model="openai/small", extra_body={"steering": {"preset": "nobody"}}, **asked)
    error = ""
except litellm.BadRequestError as refused:
    error = str(refused)

sys.stdout.write(
    json.dumps(
        {
            "plain": plain.choices[0].message.content,
            "streamed": "".join(c.choices[0].delta.content or "" for c in stream if c.choices),
            "steered": steered.choices[0].message.content,
            "persona": persona.choices[0].message.content,
            "error": error,
        }
    )
)
