"""`tiller serve`: start the server and the page."""

import typer

from server.cli.errors import exit_with_error, or_exit
from server.cli.options import settings_from_options, with_settings_options
from server.files import keep_private
from server.runtime.sockets import bind_socket, browser_host
from server.telemetry import logging

app = typer.Typer(add_completion=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@with_settings_options("vllm")
def serve(context: typer.Context, **given: object) -> None:
    """Start the server and the page.

    A setting is an option, an environment variable or a line of a TOML file.

    Example: tiller serve --port 8080 --data-dir ./data --no-browser
    From a file: tiller serve --config tiller.toml
    With vLLM: tiller serve --engine vllm --tensor-parallel-size 2
    """
    settings = settings_from_options(**given, vllm=tuple(context.args) or None)
    if settings.vllm and settings.engine != "vllm":
        exit_with_error(f"no such option: {settings.vllm[0]}; `tiller serve --help` lists the options")
    if settings.workers > 1 and settings.redis_url is None:
        exit_with_error(
            f"--workers {settings.workers} needs a store that all replicas share: "
            "give --redis-url redis://localhost:6379, or leave --workers out"
        )
    keep_private(settings.data_dir)
    listening = or_exit(lambda: bind_socket(settings))
    # These import torch; a port in use is reported before that.
    from server.runtime.embedded_model import with_model
    from server.runtime.serve import serve_here, serve_replicas

    port = listening.getsockname()[1]
    logging.configure_command_logging(settings.log, settings.log_level)
    try:
        settings = or_exit(lambda: with_model(settings, lambda line: typer.echo(line, err=True)))
        run = serve_here if settings.workers == 1 else serve_replicas
        failure = run(settings, listening, f"http://{browser_host(settings.host)}:{port}")
    finally:
        listening.close()
    if failure:
        exit_with_error(failure)
    if failure is not None:
        raise typer.Exit(1)
