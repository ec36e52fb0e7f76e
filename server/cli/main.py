"""`tiller …`: the composition root. The one place that puts engine, store and page together; heavy imports wait for their command."""

import errno
import gc
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer
from rich.console import Console

from server import settings_reference
from server.cli import analyze, audit, calibrate, chat, doctor, features, guard, jobs, keys, sae, store, understand
from server.cli.errors import expected, fail
from server.cli.options import settings_of, with_flags
from server.files import keep_to_us
from server.runtime import trainer_process
from server.settings import EMBEDDED, Settings, handed, origins, unknown_variables
from server.telemetry import logging, tracing

if TYPE_CHECKING:
    from fastapi import FastAPI

    from server.runtime.http_server import HttpServer
    from server.serving.served_model import Tiller

T = TypeVar("T")
STARTED = time.monotonic()
app = typer.Typer(
    name="tiller",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(no_args_is_help=True, help="Measure what steering does, and what a prompt does better.")
console, problems = Console(), Console(stderr=True)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@with_flags("vllm")
def serve(context: typer.Context, **given: object) -> None:
    """Start the server and the page. A setting is a flag, a variable or a line of a TOML file.

    Example: tiller serve --port 8080 --data-dir ./data --no-browser
    From a file: tiller serve --config tiller.toml
    With vLLM: tiller serve --engine vllm --tensor-parallel-size 2
    """
    settings = settings_of(**given, vllm=tuple(context.args) or None)
    if settings.vllm and settings.engine != "vllm":
        fail(f"no such option: {settings.vllm[0]}; `tiller serve --help` lists those there are")
    if settings.workers > 1 and settings.redis_url is None:
        fail(
            f"--workers {settings.workers} needs a store that all of them share: "
            "give --redis-url redis://localhost:6379, or leave --workers out"
        )
    _keep_to_ourselves(settings)
    listening = _listen(settings)
    port = listening.getsockname()[1]
    logging.begin_command(settings.log, settings.log_level)
    try:
        run = _serve if settings.workers == 1 else _serve_replicas
        run(settings, listening, f"http://{_reachable(settings.host)}:{port}")
    finally:
        listening.close()


def _say_version(wanted: bool) -> None:
    if wanted:
        from server.version import VERSION, git_commit

        console.print(" ".join(filter(None, ("tiller", VERSION, git_commit()))), highlight=False)
        raise typer.Exit


@app.callback(no_args_is_help=True)
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which Tiller this is, and end.")
    ] = False,
) -> None:
    """Chat with a language model while you turn its features up and down."""


@app.command()
@with_flags("vllm")
def trainer(**given: object) -> None:
    """Train and update SAEs in the background: do what is in the queue, look whether the text has drifted.

    Example: tiller trainer --data-dir ./data --corpus chats.jsonl
    """
    _let_threads_sleep()
    stop, begun, ours = threading.Event(), threading.Event(), handed()
    if ours:  # whoever began us ends us by the end of our input
        threading.Thread(target=_stop_at_end_of_input, args=(stop, begun), daemon=True).start()
    from server.runtime import trainer as training

    found = ours or settings_of(**given)
    _keep_to_ourselves(found)
    logging.begin_command(found.log, found.log_level)
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, lambda *_: stop.set())
    begun.set()
    expected(lambda: training.run(found, stop))
    _exit()


@app.command(hidden=True)
def replica(
    listening: Annotated[int, typer.Option(help="The socket that all replicas take connections from.")],
    page: Annotated[Path, typer.Option(help="The socket of the page.")],
    late: Annotated[bool, typer.Option("--late", help="Take no connection before the model is there.")] = False,
) -> None:
    """Be one of several servers on one address; ends when stdin does."""
    from server.api.app import create_app
    from server.runtime.http_server import HttpServer
    from server.runtime.page_proxy import Forward

    found, early = _handed(), []
    _keep_to_ourselves(found)
    logging.begin_command(found.log, found.log_level)
    _let_the_loop_have_its_turn()

    async def opened() -> "Tiller":
        return early.pop() if early else await _open(found)

    async def load() -> None:
        early.append(await _open(found))

    tracing.begin(found.otel_endpoint)
    application = create_app(found, opened)
    application.mount("/", Forward(page))
    server = HttpServer(application, shared=True, drain_seconds=found.drain_seconds)
    threading.Thread(target=_announce, args=(application, server, _tell_whoever_began_us), daemon=True).start()
    threading.Thread(target=_exit_at_end_of_input, args=(server,), daemon=True).start()
    taken = socket.socket(fileno=listening)
    expected(lambda: server.run_until_signal([taken], first=load if late else None))
    tracing.end()
    if failure := application.state.failure:
        fail(failure)


@app.command(hidden=True)
def job(job_id: str) -> None:
    """Be the process of one job."""
    from server.jobs.queue import Jobs, do

    found = _handed()
    _let_threads_sleep()
    _keep_to_ourselves(found)
    logging.begin_command(found.log, found.log_level)
    do(Jobs(found, patient=True), job_id)


@app.command(hidden=True)
def look() -> None:
    """Be one look of the trainer at the drift."""
    from server.jobs.queue import die_with_parent
    from server.runtime import trainer as training

    found = _handed()
    die_with_parent()
    _let_threads_sleep()
    _keep_to_ourselves(found)
    logging.begin_command(found.log, found.log_level)
    training.look(found)


@bench.command("steering")
def bench_steering(
    bundle: Annotated[Path, typer.Option(envvar="TILLER_BUNDLE", show_default="harbor")] = EMBEDDED,
    concepts: Annotated[str, typer.Option(help="harbor, general (for real models), or a JSON file.")] = "harbor",
    out: Annotated[Path, typer.Option(help="Folder for JSON, Markdown and charts.")] = Path("steering-report"),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    most: Annotated[int | None, typer.Option(min=1, help="Only the first so many concepts.")] = None,
) -> None:
    """Compare steering with a prompt, other directions and nulls, equally tuned; write a report.

    Example: tiller bench steering --out report
    """
    from steering.bakeoff.steering_report import run

    expected(lambda: run(bundle, concepts, out, device=device, seeds=seeds, most=most))


@app.command()
@with_flags()
def config(
    reference: Annotated[
        bool, typer.Option("--reference", help="Write docs/reference/configuration.md instead.")
    ] = False,
    **given: object,
) -> None:
    """Print the settings in force, as a TOML file that says where each comes from; secrets are hidden.

    Example: TILLER_PORT=8080 tiller config --config tiller.toml --max-push 3
    """
    settings = settings_of(**given)
    if reference:
        typer.echo(settings_reference.reference(), nl=False)
        return
    typer.echo(settings_reference.effective(settings, origins(**given)), nl=False)
    for name, near in unknown_variables().items():
        problems.print(f"{name} is no setting{f'; did you mean {near}?' if near else ''}", highlight=False)


for command in (
    chat.chat,
    chat.presets,
    doctor.doctor,
    features.features,
    features.describe,
    features.label,
    analyze.analyze,
    understand.contrast,
    understand.attribute,
    understand.diff,
    calibrate.calibrate,
):
    app.command()(command)
app.command(name="map")(features.map_)
for name, group in {
    "sae": sae.app,
    "jobs": jobs.app,
    "store": store.app,
    "keys": keys.app,
    "audit": audit.app,
    "guard": guard.app,
    "bench": bench,
}.items():
    app.add_typer(group, name=name)


def _serve(settings: Settings, listening: socket.socket, address: str) -> None:
    from server.api.app import create_app
    from server.runtime.http_server import HttpServer

    _let_the_loop_have_its_turn()
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from ui.page import mount

    tracing.begin(settings.otel_endpoint)
    application = mount(create_app(settings, lambda: _open(settings)), api_base=f"{address}/v1")
    server = HttpServer(application, drain_seconds=settings.drain_seconds)
    ready = partial(_ready, settings, address)
    threading.Thread(target=_announce, args=(application, server, ready), daemon=True).start()
    with trainer_process.trainer(settings) if settings.trainer else nullcontext(lambda: None) as end_trainer:
        server.run_until_signal([listening], also=[end_trainer])
    tracing.end()
    if failure := application.state.failure:
        fail(failure)


def _serve_replicas(settings: Settings, listening: socket.socket, address: str) -> None:
    """Keep the replicas, one trainer, and the page, whose sessions live in one process: the replicas pass it on."""
    from fastapi import FastAPI

    from server.runtime.http_server import HttpServer
    from server.runtime.replicas import Replicas, kept

    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from ui.page import mount

    with tempfile.TemporaryDirectory(prefix="tiller-") as folder:
        page, failed = Path(folder) / "page", threading.Event()
        server = HttpServer(mount(FastAPI(), api_base=f"{address}/v1"), uds=str(page))
        replicas = Replicas(settings, listening, page)

        def over(well: bool) -> None:
            if not well and not server.should_exit:  # it has said why
                failed.set()
                server.should_exit = True

        with (
            trainer_process.trainer(settings) if settings.trainer else nullcontext(lambda: None) as end_trainer,
            kept(replicas, lambda: _ready(settings, address), over),
        ):
            server.run_until_signal(also=[end_trainer, replicas.tell])
    if failed.is_set():
        raise typer.Exit(1)


def _handed() -> Settings:
    if (settings := handed()) is None:
        fail("people do not run this command: `tiller serve` and `tiller trainer` do")
    return settings


def _keep_to_ourselves(settings: Settings) -> None:
    """What people said, and what signs their cookies, is for this user alone, whatever the umask was."""
    os.umask(0o077)
    with suppress(OSError):  # whoever needs the folder says what is wrong with it
        keep_to_us(settings.data_dir)


def _let_the_loop_have_its_turn() -> None:
    # The engine's thread and the event loop share one lock; waiting 5 ms for it would be half a step each time.
    sys.setswitchinterval(0.0005)


async def _open(settings: Settings) -> "Tiller":
    from server.runtime.startup import opened

    tiller = await opened(settings)
    gc.collect()
    gc.freeze()  # what is here now stays; looking through it for garbage would stop all replies for 0.1 s each time
    return tiller


def _announce(application: "FastAPI", server: "HttpServer", ready: Callable[[], None]) -> None:
    """Say when the model is there; if it can't be, end."""
    while application.state.tiller is None:
        if application.state.failure or server.should_exit:
            server.should_exit = True
            return
        time.sleep(0.05)
    ready()


def _ready(settings: Settings, address: str) -> None:
    from steering.catalogue.bundle import Bundle

    opened = Bundle.open(settings.bundle)
    model, preset = opened.info.name, next((p.id for p in opened.presets), None)
    curl = (
        f"curl {address}/v1/chat/completions -H 'Content-Type: application/json' -d "
        f'\'{{"model": "{model}{"@" + preset if preset else ""}", "messages": [{{"role": "user", "content": "Who are you?"}}]}}\''
    )
    took = f"{time.monotonic() - STARTED:.1f} s" + (f", {settings.workers} replicas" if settings.workers > 1 else "")
    sys.stdout.write(f"\nTiller is ready ({took})\n  page  {address}/\n  API   {address}/v1\n  try   {curl}\n\n")
    sys.stdout.flush()
    if settings.browser and (sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(address)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        taken = f"port {settings.port} is taken; stop what uses it or choose another with --port"
        fail(
            taken
            if error.errno == errno.EADDRINUSE
            else f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        )
    return listening


def _reachable(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _tell_whoever_began_us() -> None:
    from server.runtime.replicas import READY

    os.write(1, READY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody listens any more


def _exit_at_end_of_input(server: "HttpServer") -> None:
    while os.read(0, 4096):
        pass
    server.should_exit = True


def _stop_at_end_of_input(stop: threading.Event, begun: threading.Event) -> None:
    while os.read(0, 4096):  # whoever began us writes nothing: what comes is the end
        pass
    if not begun.is_set():
        _exit()
    from server.jobs.queue import come_forward

    come_forward()
    stop.set()


def _exit() -> NoReturn:
    """End without taking torch apart, for which a process that runs on what others leave needs seconds that a stop has not."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _let_threads_sleep() -> None:
    """Before torch is loaded: its threads then sleep while they wait for each other.

    As they come they spin, and where one of them has no core, the others burn theirs: a small training step beside a
    busy process takes 848 ms in place of 60.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
