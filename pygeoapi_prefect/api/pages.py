"""HTML pages: which template answers for a name, and what every page is told.

A template is looked for where the operator keeps theirs, then among those of this package,
then among pygeoapi's. The pages of this package load nothing from other servers, and run no
script but that of its files.
"""

import datetime as dt
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
import pygeoapi
from babel.support import Translations
from pygeoapi import l10n, util
from pygeoapi.api import API

from pygeoapi_prefect.api.request import Request

TEMPLATES: Final = Path(__file__).parent.parent / "templates"
PYGEOAPI_TEMPLATES: Final = Path(util.TEMPLATESDIR)

_OURS: Final = frozenset(
    path.relative_to(TEMPLATES).as_posix() for path in TEMPLATES.rglob("*.html")
)

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        # templates of pygeoapi have style attributes, and Leaflet places its tiles with them
        "style-src 'self' 'unsafe-inline'",
        # logo, map tiles and images by reference may be anywhere
        "img-src 'self' data: blob: http: https:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'self'",
    )
)
"""What browsers let our pages do, whatever clients managed to put into them."""


def render(
    api: API,
    request: Request,
    template: str,
    data: Mapping[str, Any],
    templates: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, str]]:
    """Return a page and the headers that belong to it.

    Besides what pygeoapi's templates know (``config``, ``data``, ``locale``, ``version``), ours
    have ``root`` and ``api_root``: relative addresses of the server and of the API, so that
    pages work under whichever name a browser knows the server by.

    Args:
        api: pygeoapi's API.
        request: The request.
        template: Name of the template, such as ``jobs/index.html``.
        data: What the template shows.
        templates: Where an operator keeps templates of this resource, as pygeoapi's
            configuration has it; by default those of the server.
    """
    theirs = _operators_templates(templates or api.config["server"].get("templates") or {})
    locale = str(request.locale)
    environment = _environment(theirs, api.config["server"].get("locale_dir", "locale"), locale)
    root = "../" * (request.path.count("/") - 1) or "./"
    content = environment.get_template(template).render(
        config=l10n.translate_struct(api.tpl_config, request.locale, True),
        data=dict(data),
        locale=locale,
        version=pygeoapi.__version__,
        root=root,
        api_root=root + _prefix(api),
    )
    # scripts in an operator's templates are the operator's, and may be anywhere
    if theirs is not None and any((theirs / name).exists() for name in (*_OURS, template)):
        return content, {}
    return content, {"Content-Security-Policy": CONTENT_SECURITY_POLICY}


def duration(start: str, end: str) -> str:
    """Return how long it was between two times, given as RFC 3339 has them, as people say it."""
    seconds = (dt.datetime.fromisoformat(end) - dt.datetime.fromisoformat(start)).total_seconds()
    if seconds < 60:
        return f"{max(seconds, 0):.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _operators_templates(templates: Mapping[str, Any]) -> Path | None:
    path = templates.get("path")
    return None if path is None or Path(path) == PYGEOAPI_TEMPLATES else Path(path)


def _prefix(api: API) -> str:
    """Return the path of the API below that of the server, with a slash at its end."""
    prefix = str(api.base_url).removeprefix(str(api.config["server"]["url"]).rstrip("/"))
    return f"{prefix.strip('/')}/".lstrip("/")


@functools.lru_cache(maxsize=64)
def _environment(theirs: Path | None, locale_dir: str, locale: str) -> jinja2.Environment:
    """Return where templates of a language come from, with what pygeoapi's own may call."""
    folders = [TEMPLATES, PYGEOAPI_TEMPLATES]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders if theirs is None else [theirs, *folders]),
        extensions=["jinja2.ext.i18n"],
        autoescape=jinja2.select_autoescape(),
    )
    for function in (
        util.to_json,
        util.format_datetime,
        util.format_duration,
        util.human_size,
        util.get_path_basename,
        util.get_breadcrumbs,
        util.filter_dict_by_key_value,
    ):
        environment.filters[function.__name__] = function
        environment.globals[function.__name__] = function
    environment.filters["duration"] = duration
    # a form has its inputs in the order of the description
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    # added by the extension
    install = environment.install_gettext_translations  # type: ignore[attr-defined]
    install(Translations.load(locale_dir, [locale]))
    return environment
