"""The command `serve`: OpenAI's API over HTTP, and a page to try it on."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import PromptError, first_line
from ..outside.requirement import explain
from .opening import choose_model, limit_pixels, open_model
from .options import (
    device_option,
    generation_option,
    gpu_option,
    max_new_tokens_option,
    model_option,
    options_of,
)
from .output import say

if TYPE_CHECKING:
    from ..vision_language_model import VisionLanguageModel

KEY_VARIABLE = "IDEFICS2_ONNX_API_KEY"
NOISY = ("uvicorn", "uvicorn.error", "asyncio", "python_multipart", "PIL")
"""Loggers of which only warnings are shown."""
_PEM = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@model_option
@device_option
@gpu_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; others than this machine need a key.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--name", help="What clients call the model [default: the folder's name].")
@click.option("--any-model", is_flag=True, help="Answer requests for any model's name.")
@click.option("--rows", type=click.IntRange(1, 4096), default=16, show_default=True, help="Answers that grow together.")
@click.option("--queue", type=click.IntRange(1), default=128, show_default=True, help="Requests that wait; more get a 429.")
@click.option("--cache-bytes", type=click.IntRange(1), help="Most keys and values [default: rows of 2,048 tokens].")
@click.option(
    "--prefix-cache", type=click.IntRange(0), default=256 << 20, show_default=True, help="Bytes of known prompts; 0: none."
)
@max_new_tokens_option
@generation_option
@click.option(
    "--api-key", "keys", multiple=True, metavar="KEY", envvar=KEY_VARIABLE, help=f"What clients send [default: ${KEY_VARIABLE}]."
)
@click.option("--no-auth", is_flag=True, help="Answer anybody who reaches the address.")
@click.option("--cors", multiple=True, metavar="ORIGIN", help="Site whose pages may call, such as https://example.org, or *.")
@click.option("--max-body", type=click.IntRange(1), default=32 << 20, show_default=True, help="Most bytes of a request.")
@click.option("--max-image-pixels", type=click.IntRange(1, 1 << 62), help="Most of a request together [default: 100,000,000].")
@click.option("--allow-image-urls", "domains", multiple=True, metavar="DOMAIN", help="Fetch pictures from there; off by default.")
@click.option("--timeout", type=click.FloatRange(0.001), default=600, show_default=True, help="Seconds that a request may take.")
@click.option(
    "--shutdown-timeout", type=click.FloatRange(0), default=30, show_default=True, help="Seconds to end in after SIGTERM."
)
@click.option("--tls-key", type=_PEM, help="PEM file; with --tls-cert, https.")
@click.option("--tls-cert", type=_PEM, help="PEM file.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@click.option("--log-texts", is_flag=True, help="Log prompts and answers, too.")
def serve(
    model: str | None,
    device: str,
    gpu: tuple[str, ...],
    host: str,
    port: int,
    name: str | None,
    any_model: bool,
    rows: int,
    queue: int,
    cache_bytes: int | None,
    prefix_cache: int,
    max_new_tokens: int | None,
    chosen: tuple[str, ...],
    keys: tuple[str, ...],
    no_auth: bool,
    cors: tuple[str, ...],
    max_body: int,
    max_image_pixels: int | None,
    domains: tuple[str, ...],
    timeout: float,
    shutdown_timeout: float,
    tls_key: Path | None,
    tls_cert: Path | None,
    log_level: str,
    log_texts: bool,
) -> None:
    """Answer over HTTP as OpenAI's API does, many requests at once, with a page to try it on.

    Ends at Ctrl-C or SIGTERM, when running answers are whole.
    """
    from ..outside.hosts import names_this_machine

    if not names_this_machine(host) and not keys and not no_auth:
        raise click.UsageError(
            f"{host} is reached from other machines, and there is no key. Set ${KEY_VARIABLE}, or give --no-auth."
        )
    if bool(tls_key) != bool(tls_cert):
        raise click.UsageError("--tls-key and --tls-cert go together. Give both.")
    options = options_of(chosen, max_new_tokens=max_new_tokens)
    from ..folder import ModelFolder

    try:
        from ..server.app import create_app
        from ..server.listening import listen
        from ..server.settings import DEFAULT_MAX_PIXELS, Settings
    except ImportError as error:
        raise click.ClickException(explain(error, "serve") or first_line(error)) from error
    source = choose_model(model)
    try:
        settings = Settings(
            name=name if name is not None or source is None or Path(source).exists() else source,  # a hub id
            any_model=any_model,
            rows=rows,
            queue=queue,
            cache_bytes=cache_bytes,
            api_keys=keys,
            any_host=no_auth or not names_this_machine(host),
            cors=cors,
            max_body=max_body,
            max_pixels=max_image_pixels or DEFAULT_MAX_PIXELS,
            allow_image_urls=domains,
            timeout=timeout,
            log_texts=log_texts,
        )
    except PromptError as error:
        raise click.UsageError(str(error)) from error
    limit_pixels(max_image_pixels)
    folder = ModelFolder.open(source)
    _log(log_level)
    at = ""

    def open_it() -> VisionLanguageModel:
        opened = open_model(str(folder.path), device, gpu, prefix_cache=prefix_cache, spinning=False)
        opened.options = opened.options.replace(**options)
        return opened

    def bound(address: str) -> None:
        nonlocal at
        at = address
        say(f"Listening at {address}. Loading …")

    def ready() -> None:
        say(f"Serving {app.state.served.name}, {rows} answers at once{'' if keys else ', without a key'}. Try it:")
        key = f" -H 'Authorization: Bearer '${KEY_VARIABLE}" if keys else ""
        say(f"  a browser:         {at}/")
        say(f"  curl:              curl {at}/v1/chat/completions{key} -F image=@photo.jpg -F prompt='What is this?'")
        say(f"  OpenAI's clients:  base_url={at}/v1")

    app = create_app(open_it, settings)
    listen(
        app,
        host,
        port,
        patience=shutdown_timeout,
        when_bound=bound,
        when_ready=ready,
        ssl_keyfile=tls_key,
        ssl_certfile=tls_cert,
    )


def _log(level: str) -> None:
    """Lines on stderr: the server's own at this level, of what it stands on only what went wrong."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=level.upper())
    for name in NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
