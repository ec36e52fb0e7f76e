"""`tiller keys …`: create, list and delete keys in the store, with or without a running server."""

import time
from typing import Annotated, get_args

import typer
from pydantic import ValidationError
from rich.table import Column, Table

from server.auth.keyring import end_sessions
from server.auth.keys import KeyRequest, new_key
from server.cli.errors import exit_with_error
from server.cli.store_access import Data, Redis, with_store, write_audit
from server.cli.tables import AsJson, print_list
from server.cli.terminal import TerminalConsole
from server.store.base import Store
from server.store.models import RateLimits, Role
from server.validation import first_error

app = typer.Typer(add_completion=False, no_args_is_help=True, help="API keys: create, list and delete.")
console, problems = TerminalConsole(), TerminalConsole(stderr=True)
Count = Annotated[int | None, typer.Option(help="Replaces the role's limit.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Display name in lists; also the owner, unless --owner is given.")],
    role: Annotated[str, typer.Option(help=f"{', '.join(get_args(Role))}.")] = "user",
    tenant: Annotated[str, typer.Option(help="Callers with the same tenant share their presets.")] = "",
    owner: Annotated[str | None, typer.Option(help="Owner of the key.")] = None,
    days: Annotated[float | None, typer.Option(help="Days until it expires.")] = None,
    default_preset: Annotated[
        str | None, typer.Option(help="Preset that is applied where a request names none.")
    ] = None,
    requests: Count = None,
    tokens: Count = None,
    concurrent: Count = None,
    specs: Count = None,
    data_dir: Data = None,
    redis_url: Redis = None,
) -> None:
    """Create a key and print it; it is shown only once. A running server accepts it within a second.

    Example: tiller keys new ada --role creator --days 90
    """
    try:
        limits = RateLimits(requests=requests, tokens=tokens, concurrent=concurrent, specs=specs)
        about = {"name": name, "role": role, "tenant": tenant, "owner": owner, "days": days, "limits": limits}
        asked = KeyRequest.model_validate({**about, "default_preset": default_preset})
    except ValidationError as error:
        problem, message = first_error(error.errors())
        problems.print(f"{'.'.join(map(str, problem['loc']))}: {message}", style="red")
        raise typer.Exit(2) from error
    key, secret = new_key(**dict(asked))

    async def add(store: Store) -> None:
        await store.add_key(key)
        await write_audit(store, data_dir, "key made", made=key.id, role=key.role, tenant=key.tenant, owner=key.owner)

    with_store(data_dir, redis_url, add)
    problems.print(f"{key.id}: {key.role} {key.owner}. The key is shown once:")
    console.print(secret, soft_wrap=True, highlight=False)


@app.command()
def ls(data_dir: Data = None, redis_url: Redis = None, as_json: AsJson = False) -> None:
    """List keys; of their secrets only the first characters.

    Example: tiller keys ls
    """
    table = Table(Column("id", no_wrap=True), "name", "begins with", "role", "tenant", "owner", "expires")
    keys = with_store(data_dir, redis_url, lambda store: store.keys())
    for k in keys:
        until = "never" if k.expires is None else time.strftime("%Y-%m-%d", time.localtime(k.expires))
        table.add_row(k.id, k.name, f"{k.prefix}…", k.role, k.tenant, k.owner, until)
    rows = [{"object": "key"} | k.model_dump(exclude={"digest"}) for k in keys]
    print_list(console, table, rows, as_json=as_json)


@app.command()
def rm(key_id: str, data_dir: Data = None, redis_url: Redis = None) -> None:
    """Delete a key; a running server rejects it within a second.

    Example: tiller keys rm key_0123456789abcdef
    """

    async def delete(store: Store) -> bool:
        if gone := await store.delete_key(key_id):
            await write_audit(store, data_dir, "key deleted", deleted=key_id)
        return gone

    if not with_store(data_dir, redis_url, delete):
        exit_with_error(f"there is no key {key_id!r}; `tiller keys ls` lists them")
    console.print(f"{key_id} is deleted")


@app.command()
def sign_out(data_dir: Data = None, redis_url: Redis = None) -> None:
    """End all browser sessions: users of the page have to sign in again, within a second. Keys stay.

    Use it if the store may have leaked: it contains the secret that signs the cookies.

    Example: tiller keys sign-out
    """

    async def end(store: Store) -> None:
        await end_sessions(store)
        await write_audit(store, data_dir, "sessions ended")

    with_store(data_dir, redis_url, end)
    console.print("all browser sessions have ended; users have to sign in again")
