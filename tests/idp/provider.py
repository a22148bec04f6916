"""Canaille, a real OpenID Connect provider, on a port of this machine: ``python provider.py PORT REDIRECT_URI…``.

People: ann (operators), uma (vision), ole (no group); each one's password is the name three times. Runs in an environment of its
own (requirements.txt beside it).
"""

import datetime
import logging
import sys

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from joserfc.jwk import RSAKey
from waitress import serve

CLIENT_ID, CLIENT_SECRET = "dure", "a secret of the test's"
GROUPS = {"operators": ["ann"], "vision": ["uma"]}


def main() -> None:
    port, callbacks = int(sys.argv[1]), sys.argv[2:]
    logging.disable(logging.WARNING)
    app = create_app({
        "SECRET_KEY": "of the test's", "SERVER_NAME": f"127.0.0.1:{port}", "PREFERRED_URL_SCHEME": "http",
        "CANAILLE": {"DATABASE": "memory", "JAVASCRIPT": False},
        "CANAILLE_OIDC": {"ACTIVE_JWKS": [RSAKey.generate_key(2048, {"use": "sig"}).as_dict(private=True)]},
    })  # fmt: skip
    with app.app_context():
        people = {}
        for name in ("ann", "uma", "ole"):
            people[name] = models.User(
                user_name=name, formatted_name=name.title(), family_name=name, emails=[f"{name}@example.org"], password=name * 3
            )
            Backend.instance.save(people[name])
        for group, names in GROUPS.items():
            Backend.instance.save(models.Group(display_name=group, members=[people[n] for n in names]))
        now = datetime.datetime.now(datetime.UTC)
        client = models.Client(
            client_id=CLIENT_ID, client_secret=CLIENT_SECRET, client_name="Dure", client_uri="http://127.0.0.1",
            client_id_issued_at=now, redirect_uris=callbacks, grant_types=["authorization_code"], response_types=["code"],
            scope=["openid", "profile", "email", "groups"], token_endpoint_auth_method="client_secret_basic",
        )  # fmt: skip
        Backend.instance.save(client)
        client.audience = [client]
        Backend.instance.save(client)
    serve(app, host="127.0.0.1", port=port, threads=8, _quiet=True)


if __name__ == "__main__":
    main()
