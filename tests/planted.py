"""Secrets of many kinds as they turn up in log lines, and innocent text that looks a little like them.

None of these was ever valid. Each is put together from parts, so that scanners of repositories leave this file alone.
"""

from __future__ import annotations

import base64
from typing import NamedTuple


class Planted(NamedTuple):
    """A line, and what of it must not be found in any store."""

    kind: str
    line: str
    secret: str


_HEX40 = "9944b09199c62bcf" + "9418ad846dd0e4bbdfc6ee4b"
_JWT = "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiIsIm5hbWUiOiJKbyJ9.c2lnbmF0dXJlLW9mLXRoaXM"
_KEY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ"
_AWS = "AKIA" + "IOSFODNN7EXAMPLE"
_AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"
_SIGNATURE = "fe5f80f77d5fa3beca038a248ff027d0445342fe2855ddc963176630326f1024"
_BASIC = base64.b64encode(b"jo:opensesame99").decode()
_SEED = "SU" + "AM3ZJ7TQKXWBHVDYEFG2LNOPCR4S5U6AIQMEYUWZ7XHBDFJLNPRTVX2A"
assert len(_SEED) == 58

_SLACK = "T0AAAAAA0/B0BBBBBB0/" + "abcdefghijklmnopqrstuvwx"
_DISCORD = "abcDEF_ghijklmnop-" + "qrstuvwxyz0123456789"
_TELEGRAM = "AAEhBOweik6ad9r_" + "QXMENQjcrGbqCr4K-pc"

# What the tests register, as an application does with what it read from a vault.
REGISTERED = "Tr0ub4dor&3 ünï/+"

PLANTED = [
    Planted("bearer header", f"headers: {{'Authorization': 'Bearer {_HEX40}'}}", _HEX40),
    Planted("bearer in a sentence", f"calling with bearer {_HEX40}", _HEX40),
    Planted("token header of Django REST framework", f"Authorization: Token {_HEX40} rejected", _HEX40),
    Planted("primary key of such a token", f"registered token_id={_HEX40}", _HEX40),
    Planted("basic header", f"Authorization: Basic {_BASIC}", _BASIC),
    Planted("basic in a sentence", f"sent basic {_BASIC} to the proxy", _BASIC),
    Planted("digest header", 'Authorization: Digest username="jo", response="6629fae49393a053"', "6629fae49393a053"),
    Planted("header list", "[(b'authorization', b'Bearer short.one1')]", "short.one1"),
    Planted("cookie header", "Cookie: theme=dark; sessionid=38afes7a8; csrftoken=ab", "38afes7a8"),
    Planted("database URL", "connecting to postgres://app:p@ssw0rd@db.internal:5432/app", "p@ssw0rd"),
    Planted("cache URL without a user", "redis://:s3same0pen@cache:6379/0 is away", "s3same0pen"),
    Planted("token in a NATS URL", "connected to nats://n4tst0k3n@nats:4222", "n4tst0k3n"),
    Planted("token as a URL's user", f"git clone https://{_HEX40}@git.example.org/x.git", _HEX40),
    Planted(
        "presigned AWS URL", f"GET https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature={_SIGNATURE}", _SIGNATURE
    ),
    Planted("presigned GCS URL", f"https://storage.googleapis.com/b/k?X-Goog-Signature={_SIGNATURE}&x=1", _SIGNATURE),
    Planted(
        "signed GCS URL, version 2", "https://storage.googleapis.com/b/k?Expires=1&Signature=Rv2zM%2FabX%3D", "Rv2zM"
    ),
    Planted(
        "Azure SAS", "https://a.blob.core.windows.net/c/b?sv=2022-11-02&sig=Zk3Q%2Bab12cd%3D&se=2026", "Zk3Q%2Bab12cd"
    ),
    Planted(
        "Azure connection string", "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=Eby8vdM02x==;", "Eby8vdM02x"
    ),
    Planted("JWT", f"session {_JWT} expired", _JWT),
    Planted("AWS key id", f"using {_AWS} for the bucket", _AWS),
    Planted("AWS secret", f"AWS_SECRET_ACCESS_KEY={_AWS_SECRET}", _AWS_SECRET),
    Planted(
        "GitHub token",
        "cloning with ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a",
        "16C7e42F292c6912E7710c838347Ae178B4a",
    ),
    Planted("fine-grained GitHub token", "github_pat_" + "11ABCDEFG0_abcdefghijklmnop", "11ABCDEFG0_abcdefghijklmnop"),
    Planted("GitLab token", "glpat-" + "xY7zAbCdEfGhIjKlMnOp", "xY7zAbCdEfGhIjKlMnOp"),
    Planted("Slack token", "posting with xoxb-" + "2401234567-abcdefGHIJ", "2401234567-abcdefGHIJ"),
    Planted("Slack webhook", "https://hooks.slack.com/services/" + "T00000000/B00000000/XXXXyyyyZZZZ", "XXXXyyyyZZZZ"),
    Planted("Stripe key", "stripe: sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc", "4eC39HqLyjWDarjtT1zdp7dc"),
    Planted("model provider's key", "sk-" + "proj-abc123DEF456ghi789JKL012", "abc123DEF456ghi789JKL012"),
    Planted(
        "Google API key", "maps: AIza" + "SyA1234567890abcdefghijklmnopqrstuv", "SyA1234567890abcdefghijklmnopqrstuv"
    ),
    Planted("PyPI token", "pypi-AgE" + "IcHlwaS5vcmcCJDU3YmM1ZGY0LWE4ZjQtNDk", "IcHlwaS5vcmcCJDU3YmM1ZGY0LWE4ZjQtNDk"),
    Planted(
        "SendGrid key",
        "SG." + "ngeVfQFYQlKU0ufo8x5d1A" + ".TwL2iGABf9DHoTf09kqeF8tAmbihYzrnopKc",
        "TwL2iGABf9DHoTf09kqeF8tAmbihYzrnopKc",
    ),
    Planted("private key", f"-----BEGIN RSA PRIVATE KEY-----\n{_KEY}\n-----END RSA PRIVATE KEY-----", _KEY),
    Planted("private key in JSON, cut", '{"key": "-----BEGIN PRIVATE KEY-----\\n' + _KEY, _KEY),
    Planted("NATS user's seed", f"seed {_SEED}", _SEED),
    Planted("password pair", "login jo password=open-sesame-9 failed", "open-sesame-9"),
    Planted("password in JSON", 'payload {"user": "jo", "password": "a \\"b\\" c9-zq!"}', "c9-zq!"),
    Planted("password in escaped JSON", r'body "{\"db_password\": \"s3 cr3t\"}"', "s3 cr3t"),
    Planted("password in a dictionary", "{'user': 'jo', 'passwd': 'hunter two2'}", "hunter two2"),
    Planted("password in a command line", "running mysqldump --password hunter33 shop", "hunter33"),
    Planted("list of a command line", "['curl', '--token', 'abc7xyz']", "abc7xyz"),
    Planted("database settings", "host=db user=app password='pa ss9' dbname=shop", "pa ss9"),
    Planted("API key", "x-api-key: 7f3a9c-local", "7f3a9c-local"),
    Planted("client secret", "client_secret: Zq8~kk_12", "Zq8~kk_12"),
    Planted("registered secret", f"the vault said {REGISTERED}!", REGISTERED),
    Planted("registered secret in a URL", "GET /login?q=Tr0ub4dor%263%20%C3%BCn%C3%AF%2F%2B&x=1", "Tr0ub4dor%263"),
    Planted("registered secret in JSON", 'sent "Tr0ub4dor&3 \\u00fcn\\u00ef/+" on', "Tr0ub4dor&3"),
    Planted(
        "registered secret in base64",
        "sent " + base64.b64encode(f"ab:{REGISTERED}.".encode()).decode(),
        base64.b64encode(f"ab:{REGISTERED}.".encode()).decode()[4:-4],
    ),
    Planted(
        "Slack webhook in an error of requests",
        f"HTTPSConnectionPool(host='hooks.slack.com', port=443): Max retries exceeded with url: /services/{_SLACK}",
        _SLACK,
    ),
    Planted("Slack webhook as urllib3 tells it", f'hooks.slack.com:443 "POST /services/{_SLACK} HTTP/1.1" 200', _SLACK),
    Planted("Slack webhook without a scheme", f"posting to hooks.slack.com/services/{_SLACK}", _SLACK),
    Planted("trigger of a Slack workflow", f"POST /triggers/{_SLACK}", _SLACK),
    Planted("Discord webhook without a scheme", f"to discord.com/api/webhooks/123456789012345678/{_DISCORD}", _DISCORD),
    Planted("Discord webhook as urllib3 tells it", f"POST /api/v10/webhooks/123456789012345678/{_DISCORD}", _DISCORD),
    Planted("Telegram bot's URL", f"POST https://api.telegram.org/bot123456789:{_TELEGRAM}/getMe", _TELEGRAM),
    Planted("Telegram bot's path", f"retries exceeded with url: /bot123456789:{_TELEGRAM}/getMe", _TELEGRAM),
    Planted("password in a table", "password            : open-sesame-8", "open-sesame-8"),
]

INNOCENT = [
    "Published task for image 17 to 'stream', sequence 18",
    "token bucket: 5 tokens left, refill in 3 s",
    "max_tokens=512 prompt_tokens=17",
    "the tokenizer: bert-base-uncased",
    "Invalid token: expired",
    "token_id=ab12cd34 fetched 20 tasks",
    "job 7f3c1a52-9d0b-4b7e-8f43-0c1d2e3f4a5b started",
    "commit 9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b deployed",
    "sha256 fe5f80f77d5fa3beca038a248ff027d0445342fe2855ddc963176630326f1024 verified",
    "GET https://example.org:8080/a/b?page=2&order=name took 35 ms",
    "git clone ssh://git@example.org/x.git",
    "mail to jo@example.org: 250 OK",
    "see http://host:8080/path?mail=a@example.org",
    "password reset mail sent to user 5",
    "password: required",
    "12 tests passed: 12, failed: 0",
    "secret santa draw done",
    "primary_key=7 foreign_key=9 key=abc",
    "KeyError: 'name'",
    "basic authentication is off",
    "Basic training finished",
    "bearer certificates are listed",
    "the bearer of bad news: the queue is full",
    "task-runner-for-the-long-queue-17 is up",
    "disk-usage-of-the-big-machine-1 at 70 %",
    "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
    "/srv/app/secrets/rotation.py: 3 files",
    "session opened: 12:30:05",
    "author=jo authority=none",
    "x = max(a, b); y == z",
    "api.Client(token=token, password=self.password)",
    "def connect(user: str, password: str = None):",
    "monkey: banana, keyboard: qwertz",
    "signature of f: (a: int) -> str",
    "SELECT * FROM t WHERE id=5 AND name='x'",
    "S3 bucket eu-west-1/AKIAdocs/readme.txt",
    "ünïcödé, 漢字, עברית: nothing to hide",
    "compass=12 trespassing: none",
    "GET /services/TEAMS/list and /api/webhooks/17/deliveries",
    "GET /services/Transport/B7 200, /workflows/T1",
    "writing /srv/bots/bot7: 12 items",
    "eyJhIjogMX0 is JSON in base64. No token",
    "password        : required",
    "[redacted] was here already, password=[redacted]",
]
