"""Sites that join an alliance after it has begun: each as it would stand in the alliance's file."""

from __future__ import annotations

from collections.abc import Sequence

from dure.model.alliance import SITES_MAX, Alliance, SiteSpec
from dure.model.alliance_checks import problems
from dure.model.errors import InputError
from dure.model.yaml_file import load_model


def load_site(text: str, path: str = "") -> SiteSpec:
    """The site that is written in a file, in the keys of a site of an alliance's file.

    Raises
    ------
    InputError
        With line and dotted field: broken YAML, an unknown or missing key, a value out of range.
    """
    return load_model(SiteSpec, text, path)


def text_of(site: SiteSpec) -> str:
    """A site as the log keeps it: JSON."""
    return site.model_dump_json(exclude_defaults=True)


def with_sites(alliance: Alliance, texts: Sequence[str]) -> Alliance:
    """An alliance with further sites, of `text_of`, after its own.

    Raises
    ------
    InputError
        They do not fit it: a name that is taken, or stands nowhere.
    """
    sites = (*alliance.sites, *(SiteSpec.model_validate_json(text) for text in texts))
    if len(sites) > SITES_MAX:
        raise InputError(f"an alliance has at most {SITES_MAX} sites", field="name")
    grown = alliance.model_copy(update={"sites": sites})
    for loc, message in problems(grown):
        is_new = loc[0] == "sites" and len(loc) > 1 and int(loc[1]) >= len(alliance.sites)
        raise InputError(message, field=".".join(str(part) for part in (loc[2:] if is_new else loc)))
    return grown
