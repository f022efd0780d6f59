"""The web server: the configuration as it serves it, the OpenAPI document, and serving.

Owns which server program runs the Flask and the Starlette application, and its limits.
"""

import asyncio
import copy
import importlib
import ipaddress
import logging
import os
import signal
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import uvicorn
import waitress
import yaml
from jsonschema import ValidationError
from pygeoapi.config import validate_config
from pygeoapi.openapi import get_oas

from pygeoapi_prefect.config import parse_process
from pygeoapi_prefect.configuration_file import Configuration, load_configuration
from pygeoapi_prefect.errors import ConfigurationError

FLASK_MODULE = "pygeoapi_prefect.api.flask_app"
STARLETTE_MODULE = "pygeoapi_prefect.api.starlette_app"

MAX_CONNECTIONS = 1000
WILDCARD_HOSTS = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
LAST_PORT = 65_535
_MESSAGE_LENGTH = 300


def read_configuration(path: Path) -> Configuration:
    """Read a pygeoapi configuration, and find out whether it can be served.

    Raises:
        ConfigurationError: See `load_configuration`; or it is refused by pygeoapi's schema, or
            says nothing that a server or a process can start with.
    """
    configuration = load_configuration(path)
    for process_id, resource in configuration.process_resources.items():
        parse_process(process_id, resource)
    try:
        validate_config(_with_named_processors(configuration.content))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "the file"
        message = error.message
        if len(message) > _MESSAGE_LENGTH:
            message = message[:_MESSAGE_LENGTH] + "…"
        raise ConfigurationError(f"{path}: {where}: {message}") from error
    except (TypeError, ValueError, RecursionError) as error:
        # pygeoapi makes JSON of it first, which knows no sets, and nothing that has itself in it
        raise ConfigurationError(f"{path}: no configuration of pygeoapi: {error}") from error
    _check_addresses(configuration)
    return configuration


def _with_named_processors(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as pygeoapi's schema knows it, where each processor is a class.

    A process without one is an existing deployment, which `parse_process` checks.
    """
    named = copy.deepcopy(dict(content))
    for resource in (named.get("resources") or {}).values():
        processor = resource.get("processor")
        if isinstance(processor, dict) and "prefect" in processor:
            processor.setdefault("name", "")
    return named


def _check_addresses(configuration: Configuration) -> None:
    """Refuse what pygeoapi's schema takes for any text and any number."""
    server = configuration.content["server"]
    try:
        url = urlsplit(server["url"])
        is_address = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:  # half an IPv6 address, or a port beyond the last
        is_address = False
    if not is_address:
        raise ConfigurationError(
            f"{configuration.path}: server.url: {server['url']!r} is no http or https address"
        )
    if not 0 < server["bind"]["port"] <= LAST_PORT:
        raise ConfigurationError(
            f"{configuration.path}: server.bind.port: must be between 1 and {LAST_PORT}"
        )


def url_of(host: str, port: int) -> str:
    """The address by which this machine reaches a server that listens there."""
    if host in WILDCARD_HOSTS:
        host = "::1" if host == "::" else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address means the machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def localize(text: str, configuration: Mapping[str, Any], host: str, port: int) -> str:
    """Set address and port in a configuration; all else, placeholders too, stays as it is.

    `server.url` is what clients outside use, and changes only if it means this machine.

    Args:
        text: The configuration as YAML.
        configuration: The same, with its placeholders filled in.
        host: The address to listen on.
        port: The port to listen on.

    Returns:
        The changed configuration as YAML, without comments.
    """
    document = yaml.compose(text, Loader=yaml.SafeLoader)
    server = _node_of(document, "server")
    bind = _node_of(server, "bind")
    _set_scalar(bind, "host", "str", host)
    _set_scalar(bind, "port", "int", str(port))
    url = urlsplit(configuration["server"]["url"])
    if is_loopback(url.hostname or ""):
        # `localhost` stays `localhost`, as long as it means what is listened on
        keeps_name = is_loopback(host) or host in WILDCARD_HOSTS
        name = url.hostname if keeps_name and url.hostname else host
        netloc = urlsplit(url_of(name, port)).netloc
        _set_scalar(server, "url", "str", urlunsplit(url._replace(netloc=netloc)))
    return yaml.serialize(document, Dumper=yaml.SafeDumper, allow_unicode=True)


def _node_of(mapping: yaml.Node | None, key: str) -> yaml.Node | None:
    if isinstance(mapping, yaml.MappingNode):
        for key_node, value_node in mapping.value:
            if key_node.value == key and isinstance(value_node, yaml.Node):
                return value_node
    return None


def _set_scalar(mapping: yaml.Node | None, key: str, tag: str, value: str) -> None:
    if not isinstance(mapping, yaml.MappingNode):
        raise ConfigurationError(f"server: no mapping to set {key} in")
    kept = [(name, node) for name, node in mapping.value if name.value != key]
    name = yaml.ScalarNode("tag:yaml.org,2002:str", key)
    mapping.value = [*kept, (name, yaml.ScalarNode(f"tag:yaml.org,2002:{tag}", value))]


def write_openapi_document(configuration: Configuration, target: Path) -> None:
    """Generate the OpenAPI document of a configuration, as YAML.

    Raises:
        ConfigurationError: pygeoapi cannot make a document of it.
    """
    # what it knows of jobs comes with Prefect, which must not be imported with this module
    from pygeoapi_prefect.api.openapi import complete

    try:
        # pygeoapi adds to what it is handed
        document = complete(get_oas(copy.deepcopy(dict(configuration.content))))
    except Exception as error:
        # plugins of any package run here, and may raise anything
        message = " ".join(str(error).split())
        raise ConfigurationError(
            f"no OpenAPI document from {configuration.path}: {message}"
        ) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def point_pygeoapi_at(configuration: Configuration, openapi: Path) -> None:
    """Set what pygeoapi's applications read when they are imported.

    The OpenAPI document is generated, unless the environment names one that exists already.

    Args:
        configuration: The configuration to serve.
        openapi: Where to write the OpenAPI document.

    Raises:
        ConfigurationError: See `write_openapi_document`.
    """
    for name in ("pygeoapi.l10n", "pygeoapi.api.processes"):
        logging.getLogger(name).addFilter(_is_news)
    os.environ["PYGEOAPI_CONFIG"] = str(configuration.path)
    if "PYGEOAPI_OPENAPI" not in os.environ:
        write_openapi_document(configuration, openapi)
        os.environ["PYGEOAPI_OPENAPI"] = str(openapi)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a log record is more than pygeoapi's warning of an exception it dealt with.

    It warns of each word in a description that is no language (`unknown locale 'type'`), and
    of each request for jobs without `offset`, and hands the bare exception to the logger.
    """
    return record.levelno != logging.WARNING or not isinstance(record.msg, Exception)


def _end_well_on_signals() -> None:
    """Have the signals that ask for the end lead to exit code 0.

    waitress winds up on SystemExit; uvicorn has handlers of its own, and when it has wound up
    raises the signal again for those that were there before.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))


def serve_flask(host: str, port: int, threads: int) -> None:
    """Serve the Flask application with waitress, until a signal ends it.

    Args:
        host: The address to listen on.
        port: The port to listen on.
        threads: How many requests are worked on at once.
    """
    application = importlib.import_module(FLASK_MODULE).APP
    _end_well_on_signals()
    # one line for each request that waits for a thread
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    waitress.serve(
        application,
        host=host,
        port=port,
        threads=threads,
        # read to its end before the application is asked
        max_request_body_size=application.config["MAX_CONTENT_LENGTH"],
        connection_limit=MAX_CONNECTIONS,
        asyncore_use_poll=True,  # select() knows no file descriptor above 1023
        ident=None,
    )


def serve_starlette(host: str, port: int, threads: int) -> None:
    """Serve the Starlette application with uvicorn, until a signal ends it.

    Args:
        host: The address to listen on.
        port: The port to listen on.
        threads: How many requests are worked on at once.
    """
    application = importlib.import_module(STARLETTE_MODULE).APP
    _end_well_on_signals()
    server = uvicorn.Server(
        uvicorn.Config(application, host=host, port=port, server_header=False, access_log=False)
    )

    async def serve() -> None:
        # pygeoapi runs its synchronous handlers in the loop's default executor
        pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="request")
        asyncio.get_running_loop().set_default_executor(pool)
        await server.serve()

    asyncio.run(serve())
