"""Decides what is a credential, by name and by appearance.

A value is a secret if the name of its variable, header, flag or parameter says so (`API_KEY`, `*_TOKEN`, `PASSWORD`,
`--auth`, `-u user:...`), or if it looks like one: a known prefix (`sk-...`, `ghp_...`), a JWT, a private key, or
letters and digits mixed as no word mixes them. Words, paths, hosts, versions and identifiers are not treated as
secrets, since a log without them cannot be read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from .printable import printable

MASK = "***"

# Shorter values are not masked even under the name of a credential: masking "0" or "dev" would blank half a log.
_SHORTEST = 4
# The same for an unnamed value in a place where a secret may be.
_SHORTEST_BARE = 8
# Values that a credential's variable, flag or header may have without holding a secret.
_WORDS = frozenset(
    {
        *("true", "false", "none", "null", "yes", "no", "auto", "default", "string", "required", "optional", "enabled"),
        *("disabled", "missing", "invalid", "expired", "unknown", "basic", "bearer", "digest", "negotiate", "oauth"),
        *("oauth2", "oidc", "saml", "ldap", "ntlm", "kerberos", "iam", "jwt", "sso", "anonymous", "token", "password"),
    }
)
# Groups, which may follow a user name and a colon in place of a password (`--user 1000:docker`).
_GROUPS = frozenset({"root", "users", "staff", "docker", "nogroup", "nobody"})

# --- by name ---

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")

_CREDENTIAL = re.compile(
    r"(?:token|secret|passw(?:or)?d|passphrase|passcode|pwd|credentials?|authorization"
    r"|(?:api|access|secret|private|signing|encryption|license)_?keys?"
    r"|(?:^|_)(?:key|k|pass|pat|auth|bearer|creds?|cookies?|jwt|sig|signature|sas|salt|tok|mnemonic))"
    r"(?:_(?:\d+|base|value|default|prod|production|staging|dev|test|live|old|new|primary|secondary))?$"
)

_NO_CREDENTIAL = re.compile(
    r"^(?:no|use|enable|disable|require|skip|allow|with|show|print|verify|check|has|is)_"
    r"|(?:^|_)(?:public|sort|partition|primary|foreign|cache|group|gpg|pgp|max|min|num|pad|eos|bos|unk|sep|cls|stop)_"
    r"(?:key|token|secret)$"
)
# Names of values that look random but are public: ids, digests, revisions, public keys.
_IDENTIFIER = re.compile(
    r"(?:^|_)(?:[ug]?u?ids?|[a-z]*sha\d*|[a-z]*hash|digest|checksum|integrity|md5|fingerprint|etag|traceparent|tracestate"
    r"|[a-z]*(?:commit|revision|version)|refs?|rev|tags?|image|(?:public|gpg|pgp)_?key)$"
)

_CREDENTIAL_HEADER = re.compile(r"auth|token|key|secret|cookie|passw|signature|credential", re.IGNORECASE)


def is_credential(name: str) -> bool:
    """Whether a variable, header, flag or parameter called `name` holds a credential."""
    words = _snake(name)
    is_directory = name in {"PWD", "OLDPWD"}  # set by shells
    return bool(_CREDENTIAL.search(words)) and not (is_directory or _NO_CREDENTIAL.search(words))


def is_credential_header(name: str) -> bool:
    """Whether an HTTP header called `name` carries credentials."""
    return bool(_CREDENTIAL_HEADER.search(name))


def is_identifier(name: str) -> bool:
    """Whether a value called `name` may look random without being a secret."""
    return bool(_IDENTIFIER.search(_snake(name)))


def _snake(name: str) -> str:
    return _HUMP.sub("_", name).strip("_").lower()


# --- by appearance ---

# One word of a camelCase identifier, an acronym, or a number.
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")

_ALNUM = re.compile(r"[A-Za-z0-9]+")

_HEX = re.compile(r"[0-9a-f]{32,}|[0-9A-F]{32,}")
# Minimum length of a run of letters and digits: the largest average length of its words at which it counts as random.
# These limits find 98 % of random runs of 24 letters and digits, 88 % of 16 and half of 8; of the 25,500 names in the
# standard library they match none.
_BOTH_CASES = {8: 1.8, 10: 2.0, 16: 2.5, 24: 3.0}

_ONE_CASE = {20: 6.0}

_ONE_CASE_IN_PATH = {16: 4.0}

_MANY_SHORT = "s" * 5

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# Digests and revisions where the context marks them as such: in images, packages and links to repositories.
DIGEST = re.compile(
    r"\bsha\d{1,3}[:=-][A-Za-z0-9+/]{20,}={0,2}|(?:[@#]|\b(?:commits?|tree|blob|raw|archive)/)(?:[0-9a-f]{40}|[0-9a-f]{7,12})\b"
)

ROOTED = re.compile(r"(?:~|\.{1,2})/|/[^/]+/|[A-Za-z]:[\\/]|\\\\")

# Credentials of well-known services, by their prefix. Where the prefix is also a word, the rest must have a digit or a
# capital. Lookaheads are bounded, so that no text takes long to match.
KNOWN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?:sk|xai|pul|nvapi|pplx|tvly)-(?=[\w-]{0,40}[0-9A-Z])[\w-]{6,}"
    r"|(?:[rs]k_(?:live|test)_|whsec_|gh[pousr]_|github_pat_|gl(?:pat|dt|rt|cbt|ptt|ft|oas|agent)-|xox[a-z]-|xapp-|do[opr]_v1_"
    r"|dckr_pat_|shp(?:at|ss|ca|pa)_|lin_api_|lsv2_(?:pt|sk)_|gsk_|sbp_|sb_secret_|figd_|ntn_|r8_|PMAK-|CFPAT-|GOCSPX-"
    r"|AT[AC]TT3|sntry[su]_|hvs\.|ya29\.|AGE-SECRET-KEY-1)[\w-]{6,}"
    r"|(?:hf|npm)_(?=[A-Za-z0-9]{0,40}[0-9A-Z])[A-Za-z0-9]{10,}|pypi-[A-Z][\w-]{10,}"
    r"|A[KS]IA[A-Z0-9]{12,}|AIza[\w-]{20,}|SG\.[\w-]{16,64}\.[\w-]{16,}|\d{8,10}:AA[\w-]{30,}"
    r"|eyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?)"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z ]{0,40}-----|\Z)"
)


def is_random(text: str, one_case: Mapping[int, float] = _ONE_CASE) -> bool:
    """Whether a run of letters and digits in `text` looks generated: its words are shorter than those of a name."""
    return any(_is_random(run, one_case) for run in _ALNUM.findall(text))


def _is_random(run: str, one_case: Mapping[int, float]) -> bool:
    if run.isalpha() or run.isdigit():
        return False
    both = not (run.islower() or run.isupper())
    words = _WORD.findall(run)
    limits = [limit for size, limit in (_BOTH_CASES if both else one_case).items() if len(run) >= size]
    if not limits:
        return False
    lengths = "".join("s" if len(word) <= 2 else "l" for word in words)  # noqa: PLR2004 - short and long words
    many_short = both and _MANY_SHORT in lengths  # part of something longer, which raises the average
    return len(run) <= limits[-1] * len(words) or many_short or bool(_HEX.fullmatch(run))


def is_token(segment: str) -> bool:
    """Whether a path segment is a secret: in paths, UUIDs and shorter random text are used as such, too."""
    return bool(_UUID.search(segment) or KNOWN.search(segment)) or is_random(segment, _ONE_CASE_IN_PATH)


def is_worth_keeping(secret: str) -> bool:
    """Whether a secret can be masked without masking ordinary text."""
    return len(secret) >= _SHORTEST and not is_word(secret)


def is_word(value: str) -> bool:
    """Whether `value` is a word about credentials, or a placeholder for one."""
    return value.lower() in _WORDS


def is_path(value: str) -> bool:
    """Whether `value` is a path, or a list of paths."""
    return bool(ROOTED.match(value)) and not is_random(value)


def is_bare_secret(text: str) -> bool:
    """Whether an unnamed value, in a place where a secret may be, is one."""
    has_digit = any(character.isdigit() for character in text)
    return (len(text) >= _SHORTEST_BARE and has_digit and not text.isdigit()) or is_random(text)


def is_password(user: str, password: str) -> bool:
    """Whether the text after a user name is a password, not a group (`1000:1000`, `node:node`) or a path."""
    is_group = password.isdigit() or password == user or password in _GROUPS
    return is_worth_keeping(password) and not (is_group or is_path(password))


# --- URLs ---

_URL = re.compile(r"(?:([A-Za-z][\w+.:-]*)://|//)?([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)

_ADDRESS = re.compile(r"(\[[^\]]*\]|.*?)(?::([^:]*))?", re.DOTALL)

_HOST = re.compile(r"[\w.-]+|\[[0-9A-Fa-f:.]+\]")


def split_url(url: str) -> tuple[str, str, str, str, str]:
    """Scheme, authority, path, query and fragment of any text."""
    scheme, authority, path, query, fragment = _matched(_URL, url)
    return scheme, authority, path, query, fragment


def _matched(pattern: re.Pattern[str], text: str) -> list[str]:
    """The groups of a pattern that matches every text."""
    match = pattern.fullmatch(text)
    assert match is not None
    return [group or "" for group in match.groups()]


def safe_url(url: str) -> str:
    """`url` as it may be shown in a message: without userinfo, query and fragment, and with token-like parts masked.

    Of a malformed URL only the scheme and a plausible host are shown: what looks like its port or path may be half a
    password.
    """
    scheme, authority, path, query, fragment = split_url(url)
    address = authority.rpartition("@")[2]
    host, port = _matched(_ADDRESS, address)
    shown = f"{scheme.lower()}://" if scheme else ""
    if not _HOST.fullmatch(host) or KNOWN.search(host):
        return printable(f"{shown}{MASK}" if host else f"{shown}{_safe_path(path)}", 200)
    shown += ".".join(MASK if is_random(label) else label.lower() for label in host.split("."))
    if not port:
        return printable(f"{shown}{_safe_path(path)}", 200)
    if port.isdecimal():
        return printable(f"{shown}:{port}{_safe_path(path)}", 200)
    return printable(f"{scheme.lower()}://{MASK}" if "@" in path + query + fragment else f"{shown}:{MASK}", 200)


def _safe_path(path: str) -> str:
    segments = []
    for segment in path.split("/"):
        head, *parameters = segment.split(";")
        shown = [f"{one.partition('=')[0]}={MASK}" if "=" in one else MASK for one in parameters]
        segments.append(";".join([MASK if is_token(unquote(head)) else head, *shown]))
    return "/".join(segments)
