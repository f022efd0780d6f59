"""The landing page: pygeoapi's, but as a page in our frame."""

import json
from http import HTTPStatus
from typing import Any

from pygeoapi import l10n
from pygeoapi.api import API, landing_page
from pygeoapi.formats import F_JSONLD
from pygeoapi.provider import filter_providers_by_type
from pygeoapi.util import filter_dict_by_key_value

from pygeoapi_prefect.api.answers import Answer, json_answer, page_answer
from pygeoapi_prefect.api.request import Request
from pygeoapi_prefect.api.service import manager_of


def get_landing_page(api: API, request: Request) -> Answer:
    """Return what there is, and where (/req/core/landingpage-op)."""
    if request.format == F_JSONLD:
        headers, status, content = landing_page(api, request)
        return headers, HTTPStatus(status), content
    document = _document(api, request)
    if request.wants_html:
        return page_answer(api, request, "landing_page.html", document | _kinds(api))
    return json_answer(api, request, document, locale=request.locale)


def _document(api: API, request: Request) -> dict[str, Any]:
    """Return what pygeoapi's page says, in which it has replaced < and > in the texts."""
    _, _, content = landing_page(api, request.as_json())
    document: dict[str, Any] = json.loads(content)
    identification = api.config["metadata"]["identification"]
    texts = {
        name: l10n.translate(identification[name], request.locale)
        for name in ("title", "description")
    }
    links = [
        {**one, "title": texts["title"]} if one["rel"] == "about" else one
        for one in document["links"]
    ]
    return {**document, **texts, "links": links}


def _kinds(api: API) -> dict[str, Any]:
    """Return of which kinds the resources are, as pygeoapi's template has it."""
    resources = api.config["resources"]
    collections = filter_dict_by_key_value(resources, "type", "collection")
    return {
        "collection": bool(collections),
        "stac-collection": bool(filter_dict_by_key_value(resources, "type", "stac-collection")),
        "process": bool(manager_of(api).processes),
        "jobs": True,
        "tile": any(
            filter_providers_by_type(collection["providers"], "tile")
            for collection in collections.values()
        ),
        "pubsub": _broker(api),
    }


def _broker(api: API) -> dict[str, Any] | None:
    client = api.pubsub_client
    if client is None or client.hidden:
        return None
    return {
        "name": client.name,
        "url": client.broker_safe_url,
        "channel": client.channel,
        "asyncapi": api.asyncapi,
    }
