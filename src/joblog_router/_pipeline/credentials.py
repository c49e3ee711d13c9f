"""What credentials look like: the built-in patterns, each behind a test that an innocent line passes quickly.

Called by `redaction` on the writer thread. Every pattern takes time proportional to the text: no unbounded repeat
stands before or inside another one that can match the same characters, except possessively.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from re import Match
from typing import Final

MASK: Final = "[redacted]"
_NOT_MASKED: Final = r"(?!\[redacted)"

# --- private keys, and credentials of NATS users --------------------------------------------------------------------

_KEY_BLOCK: Final = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,30}(?:PRIVATE KEY|NKEY SEED|USER JWT)[A-Z ]{0,10}-----"
    r".*?(?:-----END [^-\n]{1,60}-{3,6}|\Z)",
    re.DOTALL,
)

# --- URLs -----------------------------------------------------------------------------------------------------------

_URL_USER: Final = re.compile(rf"(://[^\s/?#@:\"'<>]*:){_NOT_MASKED}[^\s/?#\"'<>]+@")
# A name alone is a person or a service ("git@") unless it is long; for NATS it is the token.
_URL_TOKEN: Final = re.compile(
    rf"((?<=nats)://|(?<=tls)://|://(?=[^\s/?#@:\"'<>]{{20}})){_NOT_MASKED}[^\s/?#@:\"'<>]+@",
    re.IGNORECASE,
)
_QUERY: Final = re.compile(
    r"([?&;](?:sig|signature|x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid|googleaccessid"
    rf"|auth|jwt|code(?==[^&\s]{{20}}))=){_NOT_MASKED}[^&\s\"'<>#]+",
    re.IGNORECASE,
)
_WEBHOOK: Final = re.compile(
    r"((?:hooks\.slack\.com/(?:services|workflows)|discord(?:app)?\.com/api/webhooks)/)[\w\-/]{8,}", re.IGNORECASE
)

# --- headers --------------------------------------------------------------------------------------------------------

_AUTHORIZATION: Final = re.compile(
    r"((?:authorization|x-amz-security-token)\\{0,3}[\"']?\s{0,3}[:=,]\s{0,3}(?:[bru]{1,2}(?=[\"']))?\\{0,3}[\"']?)"
    rf"(?:((?:bearer|basic|token|apikey|key)\s{{1,3}}){_NOT_MASKED}[^\s,;\"'\\<>]+|"
    rf"((?:digest|negotiate|ntlm|aws4-[a-z0-9\-]{{1,30}})\s{{1,3}}){_NOT_MASKED}[^\r\n]+"
    rf"|(?![a-z0-9\-]{{1,40}}\s{{1,3}}\[redacted){_NOT_MASKED}[^\s,;\"'\\<>]+)",
    re.IGNORECASE,
)
_COOKIE: Final = re.compile(
    rf"((?:set-)?cookie\\{{0,3}}[\"']?\s{{0,3}}[:,]\s{{0,3}}(?:[bru]{{1,2}}(?=[\"']))?\\{{0,3}}[\"']?){_NOT_MASKED}"
    r"[^\s=;,\"']{1,100}=[^\r\n\"']*",
    re.IGNORECASE,
)
_SCHEME: Final = re.compile(
    r"\b((?:bearer|token|apikey)\s{1,3})(?=[A-Za-z._~+/\-]{0,60}[0-9])([A-Za-z0-9._~+/\-]{16,}=*)", re.IGNORECASE
)
_BASIC: Final = re.compile(r"\b(basic\s{1,3})([A-Za-z0-9+/]{8,}={0,2})", re.IGNORECASE)

# --- tokens that say what they are ----------------------------------------------------------------------------------

_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_\-]{8,1000}\.[A-Za-z0-9_\-]{4,}(?:\.[A-Za-z0-9_\-]*)*")
_UNDERSCORED: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|[sr]k_(?:live|test|prod)_[A-Za-z0-9]{10,}"
    r"|whsec_[A-Za-z0-9+/]{16,}=*|npm_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{30,}|shp[a-z]{2}_[A-Fa-f0-9]{32,}"
    r"|do[opr]_v1_[a-f0-9]{40,}|glpat_\w{20,})"
)
_DASHED: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-(?=[A-Za-z_\-]{0,60}[0-9])[\w\-]{20,}|xox[abeoprs]-[A-Za-z0-9\-]{10,}|xapp-[A-Za-z0-9\-]{10,}"
    r"|glpat-[\w\-]{20,}|pypi-AgE[\w\-]{30,}|AGE-SECRET-KEY-1[A-Z0-9]{50,})"
)
_PLAIN: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}(?![A-Za-z0-9])|AIza[\w\-]{35}|ya29\.[\w.\-]{20,}"
    r"|SG\.[\w\-]{16,}\.[\w\-]{16,}|S[UAOCNX][A-Z2-7]{56}(?![A-Za-z0-9]))"
)

# What of each of them is looked for first.
_UNDERSCORED_MARKS: Final = (
    *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat_"),
    *("sk_", "rk_", "whsec_", "npm_", "hf_", "shp", "_v1_"),
)
_DASHED_MARKS: Final = ("sk-", "xox", "xapp-", "glpat-", "pypi-AgE", "AGE-SECRET-KEY-1")
_PLAIN_MARKS: Final = ("AKIA", "ASIA", "ABIA", "ACCA", "AIza", "ya29.", "SG.", "SU", "SA", "SO", "SC", "SN", "SX")
_PAIR_MARKS: Final = ("pass", "secret", "token", "key", "pwd", "cred", "sess", "csrf")
_PAIRED_MARKS: Final = (*_PAIR_MARKS, "auth", "cookie", "://", "signature=", "sig=")
# Of those that need nothing else: web tokens, schemes, key blocks.
_OTHER_MARKS: Final = ("eyJ", "earer", "oken", "EARER", "pikey", "asic ", "BASIC ", "-----BEGIN")

# --- name and value -------------------------------------------------------------------------------------------------

_NAME: Final = (
    r"password|passwd|passphrase|passcode|passwort|pwd"
    r"|secret|token|credentials?|(?:api|access|account|private|signing|encryption|auth|shared|master|service)[_\- ]?key"
    r"|session[_\-]?(?:id|key)|csrf"
)
# What stands for a value without being one, code that names it in a traceback's source line, and our mask.
_NO_VALUE: Final = (
    r"(?!(?:none|null|nil|true|false|str|bytes|int|bool|any|required|missing|invalid|expired|empty|unset|failed|not"
    r"|is|was|for|has|set|ok|optional)(?![\w\-]))"
    r"(?!(?:self|cls|settings|os|config|conf|request|kwargs|args|env|environ|options)[.\[(])(?!\*+(?:\W|\Z))"
    + _NOT_MASKED
)
# No possessive repeats of groups: before Python 3.11.5 they match what they must not, or nothing. What follows those of
# values matches everywhere they end, so that nothing is tried again.
_PAIR: Final = re.compile(
    rf"(?P<name>{_NAME})(?P<suffix>[_\-]?(?:access[_\-]?)?key|[_\-]?value|[_\-]?(?:id|pk)|[_\-]?[0-9]{{1,2}})?"
    r"(?P<mid>\\{0,7}[\"']\]?[ \t]{0,4}(?:[:=]|=>|,)[ \t]{0,4}|\]?[ \t]{0,4}(?:=>|:=|[=:])[ \t]{0,4})"
    r"(?P<kind>[bruf]{0,2}(?=[\"']))?"
    r"(?:\"(?P<double>(?:[^\"\\]|\\++.)*)(?P<end1>\"?)|'(?P<single>(?:[^'\\]|\\++.)*)(?P<end2>'?)"
    r"|(?P<quote>\\{1,7}[\"'])(?P<escaped>(?:(?!(?P=quote)).)*)(?P<end3>(?P=quote)|\Z)"
    rf"|{_NO_VALUE}(?P<bare>[^\s,;&\"'<>\\]+))",
    re.IGNORECASE | re.DOTALL,
)
_FLAG: Final = re.compile(
    r"((?<![\w\-])--?[A-Za-z0-9\-]{0,40}?(?:password|passwd|passphrase|token|secret|api-?key) {1,3})"
    rf"(?!-){_NOT_MASKED}[^\s\"']+",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[A-Za-z]+[.!?)]*")

_SENSITIVE: Final = re.compile(
    rf"(?:{_NAME}|authorization|cookie|\A(?:pass|pw|auth|jwt|sig|signature)\Z|private_?key|dsn)"
    r"(?:[_\-]?(?:access[_\-]?)?key|[_\-]?value|[_\-]?[0-9]{1,2}|s)?\Z",
    re.IGNORECASE,
)
_sensitive_names: Final[dict[str, bool]] = {}
_MAX_NAMES: Final = 4096


def is_sensitive(name: str) -> bool:
    """Whether a field of this name is masked whole: `password`, `db_password`, `api-key`, `Authorization`, ..."""
    answer = _sensitive_names.get(name)
    if answer is None:
        if len(_sensitive_names) >= _MAX_NAMES:
            _sensitive_names.clear()
        # "tokens" is a count, "passwords" and "secrets" are not.
        answer = _SENSITIVE.search(name[-200:]) is not None and not name.lower().endswith("tokens")
        _sensitive_names[name] = answer
    return answer


def holds_no_credential(text: str) -> bool:
    """Whether `mask_credentials` has nothing to do in any part of `text`: the marks of all its patterns are missing.

    A mark that stands anywhere in `text` counts: what is true of the whole is true of each part.
    """
    if ":" in text or "=" in text or "--" in text or "'," in text or '",' in text:
        low = text.lower()
        if any(map(low.__contains__, _PAIRED_MARKS)):
            return False
    return not (
        ("_" in text and any(map(text.__contains__, _UNDERSCORED_MARKS)))
        or ("-" in text and any(map(text.__contains__, _DASHED_MARKS)))
        or any(map(text.__contains__, _OTHER_MARKS))
        or (("A" in text or "S" in text or "ya29." in text) and any(map(text.__contains__, _PLAIN_MARKS)))
    )


def mask_credentials(text: str) -> str:
    """`text` with what looks like a credential replaced by `[redacted]`; the same object where nothing does."""
    if holds_no_credential(text):
        return text
    # One `in` costs a few hundredths of a microsecond, a pattern half of one: see benchmarks/redaction.py.
    if ":" in text or "=" in text or "--" in text or "'," in text or '",' in text:
        low = text.lower()
        if any(map(low.__contains__, _PAIRED_MARKS)):
            text = _pairs(text, low)
    if "_" in text and any(map(text.__contains__, _UNDERSCORED_MARKS)):
        text = _UNDERSCORED.sub(MASK, text)
    if "-" in text and any(map(text.__contains__, _DASHED_MARKS)):
        text = _DASHED.sub(MASK, text)
    if "eyJ" in text:
        text = _JWT.sub(MASK, text)
    if ("A" in text or "S" in text or "ya29." in text) and any(map(text.__contains__, _PLAIN_MARKS)):
        text = _PLAIN.sub(MASK, text)
    if "earer" in text or "oken" in text or "EARER" in text or "pikey" in text:
        text = _SCHEME.sub(_after_first, text)
    if "asic " in text or "BASIC " in text:
        text = _BASIC.sub(_basic, text)
    if "-----BEGIN" in text:
        text = _KEY_BLOCK.sub(MASK, text)
    return text


def _pairs(text: str, low: str) -> str:
    if "://" in low:
        if "@" in low:
            text = _URL_USER.sub(rf"\1{MASK}@", text)
            text = _URL_TOKEN.sub(rf"\1{MASK}@", text)
        if "hooks" in low:
            text = _WEBHOOK.sub(rf"\1{MASK}", text)
    if "&" in low or "?" in low:
        text = _QUERY.sub(rf"\1{MASK}", text)
    if "auth" in low or "x-amz" in low:
        text = _AUTHORIZATION.sub(_authorization, text)
    if "cookie" in low:
        text = _COOKIE.sub(rf"\1{MASK}", text)
    if any(map(low.__contains__, _PAIR_MARKS)):
        text = _PAIR.sub(_pair, text)
        if "--" in text or " -" in text:
            text = _FLAG.sub(rf"\1{MASK}", text)
    return text


def _after_first(match: Match[str]) -> str:
    return match[1] + MASK


def _authorization(match: Match[str]) -> str:
    return match[1] + (match[2] or match[3] or "") + MASK


def _basic(match: Match[str]) -> str:
    """`Basic` with what decodes to `name:password`; other words may follow "basic"."""
    word = match[2]
    try:
        raw = base64.b64decode(word + "=" * (-len(word) % 4), validate=True)
    except (ValueError, binascii.Error):
        return match[0]
    return match[1] + MASK if b":" in raw else match[0]


def _pair(match: Match[str]) -> str:
    found: Callable[[str], str] = lambda name: match[name] or ""  # noqa: E731
    head = found("name") + found("suffix") + found("mid") + found("kind")
    bare = match["bare"]
    value = bare or found("double") or found("single") or found("escaped")
    suffix = found("suffix").lower().strip("_-")
    if not value.strip("\\*") or value == MASK or value == found("name"):
        return match[0]
    if suffix in ("id", "pk") and len(value) < 20:
        return match[0]  # the id of a token is no secret, but a Django REST framework token is its own primary key
    if bare is None and "," in found("mid") and value.startswith(("-", " ")):
        return match[0]
    if bare is not None and ":" in found("mid") and not _is_password(found("name")) and _WORD.fullmatch(bare):
        return match[0]  # "token: unknown", a sentence
    if bare is not None:
        return head + MASK
    if match["double"] is not None:
        return f'{head}"{MASK}{match["end1"]}'
    if match["single"] is not None:
        return f"{head}'{MASK}{match['end2']}"
    return f"{head}{match['quote']}{MASK}{match['end3']}"


def _is_password(name: str) -> bool:
    return name[:1] in "pP"
