"""`quill serve`."""

from __future__ import annotations

import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from quillgpt.cli.flags import model_argument, settings_flags, switch
from quillgpt.config import ServeSettings, resolve_flat
from quillgpt.console import say, table
from quillgpt.errors import ConfigError
from quillgpt.extras import import_extra
from quillgpt.stopping import activity

if TYPE_CHECKING:
    from quillgpt.serve.completion import ServedModel

MODELS = model_argument("Several are served by name. [default: out]")
OPEN = switch("--open", "Open the page in the browser.")
EVERYWHERE = ("0.0.0.0", "::")


@settings_flags(ServeSettings)
def serve(*models: Annotated[str, MODELS], open_page: Annotated[bool, OPEN] = False, **flags: str) -> None:
    """Serve models on this machine: a page to write with, and an API that clients of OpenAI's completions know.

    The page is at the address that is printed. Needs the extra serve.
    """
    settings = resolve_flat(ServeSettings, flags)
    for package in ("starlette", "uvicorn"):
        import_extra(package, extra="serve", purpose="quill serve")

    from quillgpt.serve.run import check_access, listen, run

    check_access(settings.host, settings.api_key)
    sock = listen(settings.host, settings.port)
    served = load_models(models or ("out",), settings)
    port = sock.getsockname()[1]
    table("serving", {name: f"{model.model.parameters:,} parameters" for name, model in served.items()})
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    say(f"http://{shown}:{port} has the page, and the API below /v1; Ctrl-C ends it")
    if open_page:
        sock.listen()  # a browser that comes before the first answer then waits for it
        here = "127.0.0.1" if settings.host in EVERYWHERE else shown
        # A browser of the terminal holds this thread until it ends.
        threading.Thread(target=webbrowser.open, args=(f"http://{here}:{port}/",), daemon=True).start()
    with activity(""):
        run(served, sock, host=settings.host, api_key=settings.api_key or None)


def load_models(models: tuple[str, ...], settings: ServeSettings) -> dict[str, ServedModel]:
    """Return models by their names: the last part of their paths, or the paths where these are equal.

    Raises:
        ConfigError: One is named twice.
    """
    from quillgpt.api import load
    from quillgpt.serve.completion import ServedModel

    short = [Path(model).name or model for model in models]
    names = [name if short.count(name) == 1 else model for name, model in zip(short, models, strict=True)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{twice} is given twice; name each model once")
    served = {}
    for name, model in zip(names, models, strict=True):
        loaded = load(
            model,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
            data_dir=settings.data_dir,
            quantize=settings.quantize,
        )
        loaded.writer.eval()  # read now, so that the first request does not wait for it
        served[name] = ServedModel(name, loaded, data_dir=settings.data_dir)
    return served
