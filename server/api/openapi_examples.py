"""Example request bodies by schema name; each is valid with the embedded bundle."""

from typing import Any

ASKED: dict[str, Any] = {"model": "smollm2", "messages": [{"role": "user", "content": "What should I do today?"}]}
STEERING = {"features": [{"id": "smollm2/1684", "strength": 0.6}]}
PERSONA = {"id": "my-space", "name": "My space", "steering": STEERING, "starter_prompts": ["Tell me a story."]}
HAPPY, SAD = ["What a lovely day!", "I love it."], ["What a sad day.", "I hate it."]

EXAMPLES: dict[str, dict[str, Any]] = {
    "ChatRequest": ASKED | {"seed": 7, "temperature": 0, "steering": STEERING},
    "CompletionRequest": {"model": "smollm2", "prompt": "The bridge is", "max_tokens": 16, "steering": STEERING},
    "ValidateRequest": {"model": "smollm2", "steering": STEERING},
    "CompareRequest": ASKED
    | {"seed": 7, "variants": [{"name": "default", "steering": None}, {"name": "space", "steering": STEERING}]},
    "SweepConfig": {"feature": "smollm2/1684", "strengths": [0, 0.5, 1], "prompts": ["What should I do today?"]},
    "SuggestRequest": {"wish": "more cheerful", "limit": 3},
    "SearchRequest": {
        "prompts": ["the planets are far away", "a night full of stars"],
        "without": ["a walk in the park"],
    },
    "EditRequest": {"label": "the night sky", "starred": True, "user": "ada"},
    "CalibrateRequest": {"prompts": 8},
    "ContrastRequest": {"a": HAPPY, "b": SAD, "top_k": 5},
    "AnalyzeRequest": {"text": "Ada: What a lovely day!\nBob: I hate it.", "limit": 5},
    "AttributeRequest": {"text": "The bridge is", "top_k": 5},
    "VectorRequest": {"user": "ada", "name": "happy", "a": HAPPY, "b": SAD},
    "Feedback": {"user": "ada", "kind": "thumb", "up": True, "steering": {"preset": "space", "scale": 0.5}},
    "Preset": PERSONA,
    "PresetBundle": {"object": "preset.bundle", "version": 1, "model": "smollm2", "presets": [PERSONA]},
    "Export": {
        "object": "export",
        "version": 1,
        "user": "ada",
        "model": "smollm2",
        "features": [{"id": "smollm2/1684", "label": "the night sky", "starred": True}],
    },
    "Consent": {"user": "ada", "consent": True},
    "JobRequest": {"type": "sweep", "config": {"feature": "smollm2/1684", "strengths": [0.5], "prompts": ["hello"]}},
    "KeyRequest": {"name": "ada", "role": "creator", "limits": {"tokens": 100000}, "days": 90},
    "ShareRequest": ASKED | {"steering": STEERING, "seed": 7, "title": "space"},
}
