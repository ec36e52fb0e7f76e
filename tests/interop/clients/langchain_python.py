"""LangChain's ChatOpenAI: replies as JSON on standard output."""

import json
import sys

from langchain_openai import ChatOpenAI
from openai import BadRequestError

address, question, steering = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def chat(model="small", **more):
    return ChatOpenAI(
        model=model, base_url=f"{address}/v1", api_key="none", temperature=0, max_completion_tokens=12, **more
    )


try:
    chat(extra_body={"steering": {"preset": "nobody"}}).invoke(question)
    error = ""
except BadRequestError as refused:
    error = refused.message

sys.stdout.write(
    json.dumps(
        {
            "plain": chat().invoke(question).content,
            "streamed": "".join(chunk.content for chunk in chat().stream(question)),
            "steered": chat(extra_body={"steering": steering}).invoke(question).content,
            "persona": chat("small@bridge").invoke(question).content,
            "error": error,
        }
    )
)
