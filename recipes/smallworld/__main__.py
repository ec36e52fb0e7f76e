"""Print chats as JSON lines: `python -m recipes.smallworld [count] [seed]`."""

import json
import sys

from recipes.smallworld.chats import SmallWorld


def main() -> None:
    """Print chats: five from seed 0, if no others are asked for."""
    count, seed = (int(a) for a in (*sys.argv[1:], *("5", "0")[len(sys.argv) - 1 :]))
    for _, chat in zip(range(count), SmallWorld(seed), strict=False):
        print(json.dumps(chat, ensure_ascii=False))  # noqa: T201 - a command's output


if __name__ == "__main__":
    main()
