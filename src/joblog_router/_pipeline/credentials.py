"""What credentials look like: the built-in patterns, each behind a test that an innocent line passes quickly.

Called by `redaction` on the writer thread, or on one that logs with `spool_redact`. A pattern is tried only where one
of its marks stands, in a loop of Python between whose steps other threads may run: a search by a pattern through a long
text would let all of them stand still. Every pattern takes time proportional to the text: no unbounded repeat stands
before or inside another one that can match the same characters, except possessively, and what follows a long one always
matches, so that nothing is tried again.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from re import Match, Pattern
from typing import Final

MASK: Final = "[redacted]"
_NOT_MASKED: Final = r"(?!\[redacted)"

# --- private keys, and credentials of NATS users --------------------------------------------------------------------

_KEY_BEGIN: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,30}(?:PRIVATE KEY|NKEY SEED|USER JWT)[A-Z ]{0,10}-----")
_KEY_END: Final = re.compile(r"-----END [^-\n]{1,60}-{3,6}")

# --- URLs -----------------------------------------------------------------------------------------------------------

_URL: Final = re.compile(
    rf"://(?:(?P<user>[^\s/?#@:\"'<>]*+:){_NOT_MASKED}[^\s/?#\"'<>]+@"
    rf"|{_NOT_MASKED}(?P<alone>[^\s/?#@:\"'<>]++)@)"
)
# A name alone is a person or a service ("git@") unless it is long; for NATS it is the token.
_LONG_NAME: Final = 20
_BEFORE_TOKENS: Final = ("nats", "tls")
_QUERY: Final = re.compile(
    r"([?&;](?:sig|signature|x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid|googleaccessid"
    rf"|auth|jwt|code(?==[^&\s]{{20}}))=){_NOT_MASKED}[^&\s\"'<>#]+",
    re.IGNORECASE,
)
_WEBHOOK: Final = re.compile(
    r"((?:hooks\.slack\.com/(?:services|workflows|triggers)|discord(?:app)?\.com/api/webhooks)/)[\w\-/]{8,}",
    re.IGNORECASE,
)
# Of the same, the path alone, as clients of HTTP tell it; and the token of a bot of Telegram.
_HOOK_PATH: Final = re.compile(
    r"(?:(?<=/service)|(?<=/workflow)|(?<=/trigger))(s/)T[A-Z0-9]{7,}+/[A-Z0-9]{5,}+/[\w\-/]{8,}"
    r"|(webhooks/)[0-9]{15,}+/[\w\-]{16,}|(/bot[0-9]{6,}+:)[\w\-]{30,}"
)

# --- headers --------------------------------------------------------------------------------------------------------

_AUTHORIZATION: Final = re.compile(
    r"((?:authorization|x-amz-security-token)\\{0,3}[\"']?\s{0,3}[:=,]\s{0,3}(?:[bru]{1,2}(?=[\"']))?\\{0,3}[\"']?)"
    rf"(?:((?:bearer|basic|token|apikey|key)\s{{1,3}}){_NOT_MASKED}[^\s,;\"'\\<>]+|"
    rf"((?:digest|negotiate|ntlm|aws4-[a-z0-9\-]{{1,30}})\s{{1,3}}){_NOT_MASKED}[^\r\n]+"
    rf"|(?![a-z0-9\-]{{1,40}}\s{{1,3}}\[redacted){_NOT_MASKED}[^\s,;\"'\\<>]+)",
    re.IGNORECASE,
)
_AUTHORIZATION_MARKS: Final = ("authorization", "x-amz-security-token")
_COOKIE: Final = re.compile(
    rf"((?:set-)?cookie\\{{0,3}}[\"']?\s{{0,3}}[:,]\s{{0,3}}(?:[bru]{{1,2}}(?=[\"']))?\\{{0,3}}[\"']?){_NOT_MASKED}"
    r"[^\s=;,\"']{1,100}+=[^\r\n\"']*",
    re.IGNORECASE,
)
_SCHEME: Final = re.compile(
    r"\b((?:bearer|token|apikey)\s{1,3})(?=[A-Za-z._~+/\-]{0,60}+[0-9])([A-Za-z0-9._~+/\-]{16,}=*)", re.IGNORECASE
)
_BASIC: Final = re.compile(r"\b(basic\s{1,3})([A-Za-z0-9+/]{8,}={0,2})", re.IGNORECASE)

# --- tokens that say what they are ----------------------------------------------------------------------------------

# Also without what follows the first part, so that a long text of such beginnings is passed over at once.
_JWT: Final = re.compile(r"eyJ[A-Za-z0-9_\-]{8,}(\.[A-Za-z0-9_\-]{4,}[A-Za-z0-9_\-.]*)?")
_UNDERSCORED: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|[sr]k_(?:live|test|prod)_[A-Za-z0-9]{10,}"
    r"|whsec_[A-Za-z0-9+/]{16,}=*|npm_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{30,}|shp[a-z]{2}_[A-Fa-f0-9]{32,}"
    r"|do[opr]_v1_[a-f0-9]{40,}|glpat_\w{20,})"
)
_DASHED: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-(?=[A-Za-z_\-]{0,60}+[0-9])[\w\-]{20,}|xox[abeoprs]-[A-Za-z0-9\-]{10,}|xapp-[A-Za-z0-9\-]{10,}"
    r"|glpat-[\w\-]{20,}|pypi-AgE[\w\-]{30,}|AGE-SECRET-KEY-1[A-Z0-9]{50,})"
)
_PLAIN: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}(?![A-Za-z0-9])|AIza[\w\-]{35}|ya29\.[\w.\-]{20,}"
    r"|SG\.[\w\-]{16,80}\.[\w\-]{16,}|S[UAOCNX][A-Z2-7]{56}(?![A-Za-z0-9]))"
)

# What of each of them is looked for first.
_UNDERSCORED_MARKS: Final = (
    *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat_"),
    *("sk_", "rk_", "whsec_", "npm_", "hf_", "shp", "_v1_"),
)
_DASHED_MARKS: Final = ("sk-", "xox", "xapp-", "glpat-", "pypi-AgE", "AGE-SECRET-KEY-1", "-----BEGIN")
_HOOK_MARKS: Final = ("s/T", "webhooks/", "/bot")
_PLAIN_MARKS: Final = ("AKIA", "ASIA", "ABIA", "ACCA", "AIza", "ya29.", "SG.", "SU", "SA", "SO", "SC", "SN", "SX")
_PAIR_MARKS: Final = ("pass", "secret", "token", "key", "pwd", "cred", "sess", "csrf")

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
    r"(?!(?:self|cls|settings|os|config|conf|request|kwargs|args|env|environ|options)[.\[(])(?!\*(?:\W|\Z))"
    + _NOT_MASKED
)
# No possessive repeats of groups: before Python 3.11.5 they match what they must not, or nothing. What follows those of
# values matches everywhere they end, so that nothing is tried again.
_PAIR: Final = re.compile(
    rf"(?P<name>{_NAME})(?P<suffix>[_\-]?(?:access[_\-]?)?key|[_\-]?value|[_\-]?(?:id|pk)|[_\-]?[0-9]{{1,2}})?"
    r"(?P<mid>\\{0,7}[\"']\]?[ \t]{0,30}(?:[:=]|=>|,)[ \t]{0,30}|\]?[ \t]{0,30}(?:=>|:=|[=:])[ \t]{0,30})"
    r"(?P<kind>[bruf]{0,2}(?=[\"']))?"
    r"(?:\"(?P<double>[^\"\\]*+(?:\\++.[^\"\\]*+)*)(?P<end1>\"?)|'(?P<single>[^'\\]*+(?:\\++.[^'\\]*+)*)(?P<end2>'?)"
    r"|(?P<quote>\\{1,7}[\"'])"  # to the next one like it: see _pair_end
    rf"|{_NO_VALUE}(?P<bare>[^\s,;&\"'<>\\]+))",
    re.IGNORECASE | re.DOTALL,
)
# Where those that end in "key" begin, looked for before it.
_KEY_NAME: Final = re.compile(
    r"(?:api|access|account|private|signing|encryption|auth|shared|master|service)[_\- ]?key\Z"
)
_LONGEST_KEY_NAME: Final = len("encryption_key")
_NAME_MARKS: Final = ("pass", "pwd", "secret", "token", "credential", "session", "csrf")
_FLAG: Final = re.compile(
    r"((?<![\w\-])--?[A-Za-z0-9\-]{0,40}?(?:password|passwd|passphrase|token|secret|api-?key) {1,3})"
    rf"(?!-){_NOT_MASKED}[^\s\"']+",
    re.IGNORECASE,
)
_FLAG_MARKS: Final = ("password ", "passwd ", "passphrase ", "token ", "secret ", "apikey ", "api-key ")
# What stands before them.
_FLAG_BEGIN: Final = re.compile(r"-(?<![\w\-]-)-?[A-Za-z0-9\-]{0,40}\Z")
_LONGEST_FLAG: Final = 42
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
    # Written out, as a loop takes three times as long: this is what every line pays.
    if _may_hold_pairs(text):
        return False
    return not (
        ("_" in text and any(map(text.__contains__, _UNDERSCORED_MARKS)))
        or ("-" in text and any(map(text.__contains__, _DASHED_MARKS)))
        or ("s/" in text and ("s/T" in text or "webhooks/" in text))
        or "/bot" in text
        or "eyJ" in text
        or "earer" in text
        or "oken" in text
        or "EARER" in text
        or "pikey" in text
        or "asic " in text
        or "BASIC " in text
        or (("A" in text or "S" in text or "ya29." in text) and any(map(text.__contains__, _PLAIN_MARKS)))
    )


def _may_hold_pairs(text: str) -> bool:
    """Whether there is anything in `text` for `_pairs`."""
    if not (":" in text or "=" in text or "--" in text or "'," in text or '",' in text):
        return False
    low = text.lower()
    return (
        "pass" in low
        or "secret" in low
        or "token" in low
        or "key" in low
        or "pwd" in low
        or "cred" in low
        or "sess" in low
        or "csrf" in low
        or "auth" in low
        or "cookie" in low
        or "://" in low
        or "signature=" in low
        or "sig=" in low
    )


def mask_credentials(text: str) -> str:
    """`text` with what looks like a credential replaced by `[redacted]`; the same object where nothing does."""
    if holds_no_credential(text):
        return text
    # One `in` costs a few hundredths of a microsecond, a pattern half of one: see benchmarks/redaction.py.
    if _may_hold_pairs(text):
        text = _pairs(text, text.lower())
    if "/" in text:
        text = _sub(_HOOK_PATH, _hook, text, _places(text, _HOOK_MARKS))
    if "_" in text:
        text = _sub(_UNDERSCORED, _whole, text, _underscored(text))
    if "-" in text:
        text = _sub(_DASHED, _whole, text, _places(text, _DASHED_MARKS))
    if "eyJ" in text:
        text = _sub(_JWT, _web_token, text, _places(text, ("eyJ",)))
    if "A" in text or "S" in text or "ya29." in text:
        text = _sub(_PLAIN, _whole, text, _places(text, _PLAIN_MARKS))
    low = _lower(text)
    text = _sub(_SCHEME, _after_first, text, _places(low, ("bearer", "token", "apikey")))
    if "asic" in text or "BASIC" in text:
        text = _sub(_BASIC, _basic, text, _places(_lower(text), ("basic",)))
    return _without_key_blocks(text) if "-----BEGIN" in text else text


def _pairs(text: str, low: str) -> str:
    if "://" in low:
        if "@" in low:
            text = _sub(_URL, _url, text, _places(text, ("://",)))
        if "hooks" in low:
            text = _sub(_WEBHOOK, _after_first, text, _places(_lower(text), ("hooks.slack.com", "discord")))
    if "&" in low or "?" in low:
        text = _sub(_QUERY, _after_first, text, _places(text, "?&;"))
    if "auth" in low or "x-amz" in low:
        text = _sub(_AUTHORIZATION, _authorization, text, _places(_lower(text), _AUTHORIZATION_MARKS))
    if "cookie" in low:
        text = _sub(_COOKIE, _after_first, text, _places(_lower(text), ("cookie",)))
    if any(map(low.__contains__, _PAIR_MARKS)):
        text = _sub(_PAIR, _pair, text, _names(_lower(text)), _pair_end)
        if "--" in text or " -" in text:
            text = _sub(_FLAG, _after_first, text, _flags(text))
    return text


def _lower(text: str) -> str:
    """`text` in lower case and of the same length."""
    # The one letter that becomes two, and the one that stays though patterns take it for an "s".
    return text.lower() if text.isascii() else text.replace("\u0130", "i").replace("\u017f", "s").lower()


def _places(text: str, marks: Iterable[str]) -> list[int]:
    """Where `marks` stand in `text`, in order."""
    places = []
    for mark in marks:
        at = text.find(mark)
        while at >= 0:
            places.append(at)
            at = text.find(mark, at + 1)
    places.sort()
    return places


def _names(low: str) -> list[int]:
    """Where the names of pairs may begin."""
    places = _places(low, _NAME_MARKS)
    for at in _places(low, ("key",)):
        name = _KEY_NAME.search(low, max(0, at + 3 - _LONGEST_KEY_NAME), at + 3)
        if name is not None:
            places.append(name.start())
    places.sort()
    return places


def _flags(text: str) -> list[int]:
    """Where options of command lines begin."""
    places = []
    for at in _places(_lower(text), _FLAG_MARKS):
        begin = _FLAG_BEGIN.search(text, max(0, at - _LONGEST_FLAG), at)
        if begin is not None:
            places.append(begin.start())
    return places


def _underscored(text: str) -> list[int]:
    places = _places(text, _UNDERSCORED_MARKS)
    places += [at - 3 for at in _places(text, ("_v1_",)) if at >= 3]
    places.sort()
    return places


def _sub(
    pattern: Pattern[str],
    replace: Callable[[Match[str]], str],
    text: str,
    places: list[int],
    end_of: Callable[[Match[str]], int] = Match.end,
) -> str:
    """What `pattern.sub(replace, text)` gives where its matches begin at `places` only; other threads may run."""
    parts: list[str] = []
    done = 0
    for at in places:
        if at >= done and (match := pattern.match(text, at)) is not None:
            parts += (text[done:at], replace(match))
            done = end_of(match)
    return "".join((*parts, text[done:])) if parts else text


def _whole(_match: Match[str]) -> str:
    return MASK


def _without_key_blocks(text: str) -> str:
    """`text` without private keys; one that is cut goes to the end of the text."""
    parts: list[str] = []
    done = 0
    while (begin := _KEY_BEGIN.search(text, done)) is not None:
        parts += (text[done : begin.start()], MASK)
        end = _KEY_END.search(text, begin.end())
        done = len(text) if end is None else end.end()
    return "".join((*parts, text[done:])) if parts else text


def _web_token(match: Match[str]) -> str:
    return match[0] if match[1] is None else MASK


def _url(match: Match[str]) -> str:
    user, alone, at = match["user"], match["alone"], match.start()
    if user is not None:
        return f"://{user}{MASK}@"
    is_token = len(alone) >= _LONG_NAME or match.string[max(0, at - 4) : at].lower().endswith(_BEFORE_TOKENS)
    return f"://{MASK}@" if is_token else match[0]


def _after_first(match: Match[str]) -> str:
    return match[1] + MASK


def _hook(match: Match[str]) -> str:
    return match[match.lastindex or 0] + MASK


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
    whole = match.string[match.start() : _pair_end(match)]
    head = found("name") + found("suffix") + found("mid") + found("kind")
    bare, quote = match["bare"], match["quote"]
    escaped = "" if quote is None else whole[match.end() - match.start() :].removesuffix(quote)
    value = bare or found("double") or found("single") or escaped
    suffix = found("suffix").lower().strip("_-")
    if not value.strip("\\*") or value == MASK or value == found("name"):
        return whole
    if suffix in ("id", "pk") and len(value) < 20:
        return whole  # the id of a token is no secret, but a Django REST framework token is its own primary key
    if bare is None and "," in found("mid") and value.startswith(("-", " ")):
        return whole
    if bare is not None and ":" in found("mid") and not _is_password(found("name")) and _WORD.fullmatch(bare):
        return whole  # "token: unknown", a sentence
    if bare is not None:
        return head + MASK
    if match["double"] is not None:
        return f'{head}"{MASK}{match["end1"]}'
    if match["single"] is not None:
        return f"{head}'{MASK}{match['end2']}"
    return f"{head}{quote}{MASK}{quote if whole.endswith(quote) else ''}"


def _pair_end(match: Match[str]) -> int:
    """Where a pair ends; one with a value in escaped quotes, behind the next ones, or where the text does."""
    quote, text = match["quote"], match.string
    if quote is None:
        return match.end()
    at = text.find(quote, match.end())
    return len(text) if at < 0 else at + len(quote)


def _is_password(name: str) -> bool:
    return name[:1] in "pP"
