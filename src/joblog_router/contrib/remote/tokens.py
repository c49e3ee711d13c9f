"""Job tokens: what lets a worker elsewhere write into one job's log, and do nothing else.

A token is text signed with the project's SECRET_KEY (keys in SECRET_KEY_FALLBACKS are still taken). It holds one job,
one namespace, one audience, an id and when it ends; none of that is secret, the signature is what counts. Revoked
tokens stand in a table of the app. Called by the application, a command and `receive`, on their threads.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any, Final, NamedTuple

from django.core import signing
from django.db import DatabaseError, InterfaceError

from ..._pipeline.namespaces import in_force
from ..._pipeline.text import clean
from ...entry import AUDIENCES, Audience
from ...exceptions import ConfigurationError, JobLogError, SinkUnavailableError
from ..django import conf
from ..django.keys import stored_key
from ..django.times import MICROSECONDS

__all__ = ["BadTokenError", "Grant", "issue_token", "read_token", "revoke_job", "revoke_token"]

_SALT: Final = "joblog_router.contrib.remote"
_LONGEST: Final = 8_000
_LONGEST_ID: Final = 1_000
DAY: Final = 86_400.0


class BadTokenError(JobLogError):
    """The token is not one of this project's that still holds: hand out a new one. `reason` is a word for counters."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the job token is {reason}")
        self.reason = reason


class Grant(NamedTuple):
    """What a token allows: lines into the log of one job, for no wider audience than this, until it expires."""

    job_id: str
    namespace: str
    audience: Audience
    token_id: str
    issued: float
    expires: float


def issue_token(
    job_id: object, *, expires: float = DAY, audience: Audience = "all", namespace: str | None = None
) -> str:
    """A token for the log of `job_id`, valid for `expires` seconds; hand it out with the task.

    `audience` "staff" makes every line written with it one for staff only. `namespace` None is the one in force here.
    Raises ConfigurationError for values that cannot be meant.
    """
    job = "" if job_id is None else clean(str(job_id))
    if not job:
        raise ConfigurationError("a job token needs a job that has an id: save the job first")
    if len(job) > _LONGEST_ID:
        raise ConfigurationError(f"job ids in tokens have at most {_LONGEST_ID} characters, this one has {len(job)}")
    if audience not in AUDIENCES:
        raise ConfigurationError(f"the audience of a job token is 'all' or 'staff', not {audience!r}")
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not 0 < expires < 10 * 366 * DAY:
        raise ConfigurationError(f"a job token expires after a positive number of seconds, not {expires!r}")
    now = time.time()
    token = signing.dumps(
        {
            "job": job,
            "ns": in_force(namespace),
            "aud": audience,
            "id": secrets.token_hex(8),
            # As exact as what revokes it: rounded up it would seem to come later.
            "iat": round(now, 6),
            "exp": round(now + expires, 3),
        },
        salt=_SALT,
    )
    if len(token) > _LONGEST:
        raise ConfigurationError(
            f"the token of job {job[:40]!r}... has {len(token)} characters, more than the {_LONGEST} that are taken: "
            "give the job, or its namespace, a shorter id; a character that is not ASCII takes up to 16 of them"
        )
    return token


def read_token(token: str, *, expired: bool = False) -> Grant:
    """What `token` allows. BadTokenError if it is forged or, unless `expired`, has ended; looks at no table."""
    if not token or len(token) > _LONGEST:
        raise BadTokenError("forged")
    try:
        held: Any = signing.loads(token, salt=_SALT)
    except (signing.BadSignature, ValueError, json.JSONDecodeError):
        raise BadTokenError("forged") from None
    grant = Grant(held["job"], held["ns"], held["aud"], held["id"], float(held["iat"]), float(held["exp"]))
    if not expired and time.time() >= grant.expires:
        raise BadTokenError("expired")
    return grant


def check_revoked(grant: Grant) -> None:
    """BadTokenError if the token, or all tokens of its job, were revoked; SinkUnavailableError if nobody can tell."""
    from ..django.models import RevokedToken

    alias = conf.database_alias()
    rows = RevokedToken.objects.using(alias).filter(
        namespace=stored_key(grant.namespace), job_id=stored_key(grant.job_id)
    )
    try:
        found = list(rows.values_list("token_id", "revoked"))
    except (DatabaseError, InterfaceError) as error:
        raise SinkUnavailableError(
            f"the table of revoked job tokens cannot be read: {error}", f"Run: {conf.migrate_command(alias)}"
        ) from error
    for token_id, revoked in found:
        if token_id == grant.token_id or (not token_id and round(grant.issued * MICROSECONDS) <= revoked):
            raise BadTokenError("revoked")


def revoke_token(token: str) -> Grant:
    """Refuse `token` from now on. Gives what it had allowed; BadTokenError for one that was never this project's."""
    grant = read_token(token, expired=True)
    _revoke(grant.job_id, grant.namespace, grant.token_id)
    return grant


def revoke_job(job_id: object, namespace: str | None = None) -> None:
    """Refuse every token that was issued for `job_id` so far. Those issued later hold."""
    _revoke(clean(str(job_id)), in_force(namespace), "")


def _revoke(job_id: str, namespace: str, token_id: str) -> None:
    from ..django.models import RevokedToken

    RevokedToken.objects.using(conf.database_alias()).create(
        namespace=stored_key(namespace),
        job_id=stored_key(job_id),
        token_id=token_id,
        revoked=round(time.time() * MICROSECONDS),
    )
