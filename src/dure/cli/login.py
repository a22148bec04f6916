"""`dure login`, `dure logout`: who you are, from your organisation's OpenID Connect provider."""

from __future__ import annotations

import secrets
import sys
import webbrowser
from urllib.parse import urlencode

import click

from dure.cli.main import echo_json
from dure.model.errors import InputError


@click.command()
@click.argument("url", required=False)
@click.option("--no-browser", is_flag=True, help="Only print the address; open it where you have a browser.")
@click.option("--json", "is_json", is_flag=True)
def login(url: str | None, no_browser: bool, is_json: bool) -> None:
    """Sign in with your organisation's provider, in a browser on any machine.

    URL is the service's address; default: the one that is set. The browser shows a code that is asked for here; the
    token that comes of it is kept for the other commands.
    """
    from dure.client import Client
    from dure.client.settings import Settings, load_settings, save_settings
    from dure.service.oidc import challenge_of

    where = (url or load_settings().url).rstrip("/")
    verifier = secrets.token_urlsafe(48)
    with Client(where, "") as dure:
        offer = dure.login_offer()
        if not offer.path:
            raise InputError("this service has no provider to sign in with: ask its operator for a token", field=where)
        address = f"{Settings(where).urls[0].rstrip('/')}{offer.path}?{urlencode({'challenge': challenge_of(verifier)})}"
        click.echo(f"Sign in here: {address}", err=True)
        if not no_browser and sys.stdout.isatty():
            webbrowser.open(address)
        code = click.prompt("Code", err=True).strip()
        made = dure.redeem_login(code, verifier)
    with Client(where, made.token) as dure:
        who = dure.whoami()
    path = save_settings(Settings(where, made.token))
    if is_json:
        echo_json({"user": who.user, "expires_at": who.model_dump(mode="json")["expires_at"], "kept_in": str(path)})
    else:
        click.echo(f"You are {who.user}: {', '.join(role.words for role in who.roles)}")


@click.command()
@click.option("--json", "is_json", is_flag=True)
def logout(is_json: bool) -> None:
    """End the token that `dure login` has kept, and forget it."""
    from dure.client import Client
    from dure.client.settings import Settings, kept_settings, save_settings

    kept = kept_settings()
    if kept is None or not kept.token:
        raise InputError("nobody is signed in", field="logout")
    with Client(kept.url, kept.token) as dure:
        dure.revoke_token(dure.whoami().token_id)
    save_settings(Settings(kept.url, ""))
    if is_json:
        echo_json({"signed_out_of": kept.url})
    else:
        click.echo(f"Signed out of {kept.url}")
