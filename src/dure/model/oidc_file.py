"""The file that says how people sign in with an OpenID Connect provider, and which roles its groups have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from dure.model.yaml_file import FileModel, Loc, load_model


class GroupGrant(FileModel):
    """A group of the provider's, and the role that its people have here."""

    group: str = Field(min_length=1, description="As the provider's claim names it.")
    role: Literal["operator", "member_admin", "project_lead", "user", "auditor"] = Field(description="Role of its people.")
    member: str = Field(default="", description="Where the role holds.")
    project: str = Field(default="", description="Where the role holds, MEMBER/NAME.")


class OidcFile(FileModel):
    """How people sign in with a provider."""

    issuer: str = Field(pattern=r"^https?://[^\s?#]+$", description="The provider's issuer address.")
    client_id: str = Field(min_length=1, description="Dure's name at the provider.")
    client_secret_file: str = Field(default="", description="File with the client's secret, beside this one; none: a public client.")
    public_url: str = Field(default="", pattern=r"^(https?://[^\s?#]+)?$", description="Dure's address as browsers have it; default: the request's.")
    scopes: tuple[str, ...] = Field(default=("openid", "profile", "email", "groups"), description="What is asked of the provider.")
    user_claim: str = Field(
        default="sub",
        description="Claim that names a person. Only `sub` is promised to be one person's for ever; name another, such as "
        "`preferred_username`, only where the provider lets nobody choose it.",
    )
    groups_claim: str = Field(default="groups", description="Claim that lists a person's groups; dots lead inward.")
    session_hours: Annotated[float, Field(gt=0, le=720)] = Field(default=12.0, description="So long a sign-in is good.")
    grants: tuple[GroupGrant, ...] = Field(min_length=1, description="Roles of groups.")


def check_oidc(file: OidcFile) -> Iterator[tuple[Loc, str]]:
    """What a schema cannot say: each role has the place that its kind needs."""
    if "openid" not in file.scopes:
        yield ("scopes",), "must name openid"
    for i, grant in enumerate(file.grants):
        if grant.role in ("operator", "auditor") and (grant.member or grant.project):
            yield ("grants", i), f"{grant.role} holds everywhere: name no member and no project"
        if grant.role == "member_admin" and (not grant.member or grant.project):
            yield ("grants", i), "member_admin names a member, and no project"
        if grant.role == "project_lead" and not grant.project:
            yield ("grants", i), "project_lead names a project"
        if grant.role == "user" and not (grant.member or grant.project):
            yield ("grants", i), "user names a member or a project"


def load_oidc_file(text: str, path: str = "") -> OidcFile:
    """The settings in a file's text; raises InputError with path, line and field."""
    return load_model(OidcFile, text, path, check_oidc)
