#!/usr/bin/python3 -I
# SPDX-License-Identifier: Apache-2.0
"""clupy-index-config: what the cluster's package index is, as a configuration of nginx.

Called by clupy-index.service: before nginx starts, and at each reload. It reads clupy.master.dependency.yaml through
clupy-index-keys, which is in C and shares its reader with the master. What that file leaves open is asked at run time:
of pip, which index this machine uses; of that index, where its files lie.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import hashlib
import html.parser
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

KEYS = "/usr/lib/clupy/clupy-index-keys"
SOCKET = "/run/clupy-index/index.sock"
DIRECTORY = "/run/clupy-index/nginx"
MANIFEST = "/etc/clupy/clupy.master.dependency.yaml"
CLIENT_WHEELS = "/run/clupy-index/wheels"
CACHE = "/var/cache/clupy-index"
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
EX_CONFIG = 78

LISTING_BYTES = 32 << 20
LISTING_SECONDS = 15.0
RELOAD_SECONDS = 10.0
# How long what the index said is good for, in seconds.
KNOWN_SECONDS = 86400.0
# Asked for to see where files lie: every index that serves the public has the installer itself.
PROBE = "pip"
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"

# pip answers for all of its configuration files, its environment and its own default.
ASK_PIP = """
import json
from pip._internal.commands import create_command
values = create_command("install").parser.get_default_values()
print(json.dumps({"index": values.index_url, "authorities": values.cert, "folders": values.find_links}))
"""


class ConfigError(Exception):
    """A sentence for the administrator."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """A web server that files come from: scheme, host name with port, and the credentials of the URL, if any."""

    scheme: str
    host: str
    authorization: str | None

    @staticmethod
    def of(url: str) -> Origin:
        """Raises ConfigError where the URL is none that can be trusted."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ConfigError(f"'{without_password(url)}' is no https:// URL")
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise ConfigError(f"'{without_password(url)}': packages are only taken over https://")
        if not re.fullmatch(r"[A-Za-z0-9.-]{1,253}|[0-9a-fA-F:.]{2,45}", parts.hostname):
            raise ConfigError(f"'{parts.hostname}' is no host name")
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        authorization = None
        if parts.username is not None:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            authorization = "Basic " + base64.b64encode(pair.encode()).decode()
        return Origin(parts.scheme, f"{name}:{parts.port}" if parts.port else name, authorization)

    @property
    def name(self) -> str:
        """The host name alone."""
        return urllib.parse.urlsplit(f"//{self.host}").hostname or self.host

    @property
    def url(self) -> str:
        """As links begin, without a '/' at its end."""
        return f"{self.scheme}://{self.host}"


@dataclasses.dataclass(frozen=True)
class Index:
    """What nginx is to serve. origin: None where there is no index, and why says so; path: of the index below its
    origin, without a '/' at its end; files: the other hosts on which its files lie; complete: they are known."""

    origin: Origin | None
    path: str
    files: tuple[Origin, ...]
    folders: tuple[str, ...]
    authorities: str = AUTHORITIES
    complete: bool = True
    why: str = "`index: none`: there is no package index, only wheels"


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    return re.sub(r"//[^/@]*@", "//***@", url)


def ask_pip() -> dict[str, object]:
    """The index, the file of authorities and the folders that pip on this machine is configured with. Raises
    ConfigError."""
    done = subprocess.run(["/usr/bin/python3", "-I", "-c", ASK_PIP], capture_output=True, text=True, check=False,
                          env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    if done.returncode != 0:
        raise ConfigError("`index:` is missing, and pip cannot say which one this machine uses: "
                          + (done.stderr.strip().splitlines() or ["it failed"])[-1])
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def links_of(url: str, content_type: str, body: bytes) -> list[str]:
    """The files of a listing as absolute URLs."""
    if "json" in content_type:
        found = [file.get("url", "") for file in json.loads(body).get("files", [])]
    else:
        parser = _Links()
        parser.feed(body.decode(errors="replace"))
        found = parser.found
    return [urllib.parse.urljoin(url, link) for link in found]


def ask_index(index: str, authorities: str) -> list[str]:
    """The origins, as URLs, of the files that the index lists for one project. Raises OSError, ValueError."""
    parts = urllib.parse.urlsplit(index)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    request = urllib.request.Request(f"{bare}/{PROBE}/", headers={"Accept": ACCEPT, "User-Agent": "clupy-index"})
    origin = Origin.of(index)
    if origin.authorization:
        request.add_header("Authorization", origin.authorization)
    context = ssl.create_default_context(cafile=authorities)
    with urllib.request.urlopen(request, timeout=LISTING_SECONDS, context=context) as answer:
        links = links_of(answer.url, answer.headers.get("Content-Type", ""), answer.read(LISTING_BYTES))
    urls = (urllib.parse.urlsplit(link) for link in links)
    return sorted({f"{url.scheme}://{url.netloc.rpartition('@')[2]}" for url in urls if url.scheme == "https"}
                  - {origin.url})


def read_keys(program: str) -> dict[str, object]:
    """What clupy.master.dependency.yaml says of the index. Raises ConfigError with the file and line."""
    try:
        done = subprocess.run([program], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"{program}: {error.strerror}") from error
    if done.returncode != 0:
        raise ConfigError(done.stderr.strip())
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def _remembered(cache: Path, index: str) -> tuple[list[str], float] | None:
    """What the index said last, and how many seconds ago."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(cache.read_text())
        if known["index"] == index:
            return [str(url) for url in known["files"]], time.time() - cache.stat().st_mtime
    return None


def _files_of(index: str, authorities: str, cache: Path | None) -> tuple[list[str], bool]:
    """Where the files of an index lie, and whether that is sure."""
    name = hashlib.sha256(index.encode()).hexdigest()
    known = _remembered(cache, name) if cache else None
    if known and 0 <= known[1] < KNOWN_SECONDS:
        return known[0], True
    try:
        files = ask_index(index, authorities)
    except (OSError, ValueError) as error:
        print(f"{without_password(index)} does not say where its files lie: {error}; "
              f"{'going by what it said last' if known else 'it is asked again in a while'}", file=sys.stderr)
        return (known[0], True) if known else ([], False)
    if cache:
        cache.write_text(json.dumps({"index": name, "files": files}) + "\n")
    return files, True


def find_index(keys: dict[str, object], cache: Path | None) -> Index:
    """Fills in what the file leaves open. cache: a file that remembers where files lie, for when the index is away.
    Raises ConfigError."""
    folders = keys.get("wheels") or []
    files = keys.get("index_files") or []
    assert isinstance(folders, list) and isinstance(files, list)
    if keys.get("index") == "none":
        return Index(None, "", (), tuple(folders))
    authorities = AUTHORITIES
    url = keys.get("index")
    try:
        pip = ask_pip()
        url = url or pip["index"]
        authorities = str(pip["authorities"] or AUTHORITIES)
    except ConfigError as error:
        if not url:
            # Wheels are served all the same.
            print(error, file=sys.stderr)
            return Index(None, "", (), tuple(folders), why=str(error))
    index, complete = str(url).rstrip("/"), True
    origin = Origin.of(index)
    if not files:
        files, complete = _files_of(index, authorities, cache)
    path = urllib.parse.urlsplit(index).path
    if not re.fullmatch(r"(/[A-Za-z0-9._~%+@:-]+)*", path):
        raise ConfigError(f"'{without_password(index)}': its path has characters that none has")
    return Index(origin, path, tuple(Origin.of(str(file)) for file in files), tuple(map(str, folders)), authorities,
                 complete)


def digest_of(manifest: Path) -> str:
    """What the master compares: SHA-256 of the file, "-" without one."""
    try:
        return hashlib.sha256(manifest.read_bytes()).hexdigest()
    except FileNotFoundError:
        return "-"


def tell(directory: Path, digest: str) -> None:
    """Tells the master which manifest has been seen: it has builds wait until then."""
    fresh = directory / "manifest.new"
    fresh.write_text(f"{digest}\n")
    fresh.chmod(0o644)
    fresh.rename(directory / "manifest")


def workers(master: int) -> set[str]:
    """The process numbers of nginx's workers that take connections."""
    found = set()
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{master}/task/{master}/children").read_text().split():
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{child}/cmdline").read_bytes()
                if b"worker process" in title and b"shutting down" not in title:
                    found.add(child)
    return found


def reload(master: int) -> None:
    """Has nginx read its configuration, and waits until those that had the former one take no connections any more."""
    before = workers(master)
    os.kill(master, signal.SIGHUP)
    deadline = time.monotonic() + RELOAD_SECONDS
    while before & workers(master) and time.monotonic() < deadline:
        time.sleep(0.02)


def nameservers() -> list[str]:
    """The machine's name servers."""
    found = []
    with contextlib.suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text().splitlines():
            words = line.split()
            if words[:1] == ["nameserver"] and len(words) > 1 and "%" not in words[1]:
                found.append(f"[{words[1]}]" if ":" in words[1] else words[1])
    return found


def addresses() -> dict[str, list[str]]:
    """The addresses in /etc/hosts by name: nginx asks name servers only."""
    found: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for line in Path("/etc/hosts").read_text().splitlines():
            address, *names = line.split("#")[0].split() or [""]
            for name in names:
                found.setdefault(name, []).append(f"[{address}]" if ":" in address else address)
    return found


def printable(text: str) -> str:
    """A sentence as nginx can say it."""
    return re.sub(r"[\"\\\\$\0-\x1f]", " ", text)


def quoted(text: str) -> str:
    """A string for nginx, in which it finds no variable and no end."""
    if any(character in text for character in "\"\\$\n\r\0"):
        raise ConfigError(f"'{text}': a path with one of \" \\ $ cannot be offered")
    return f'"{text}"'


HEAD = """# SPDX-License-Identifier: Apache-2.0
# Made by clupy-index-config; changes are lost.
daemon off;
pid {directory}/nginx.pid;
error_log stderr warn;
worker_processes 2;
events {{ worker_connections 1024; }}
http {{
default_type application/octet-stream;
types {{ text/html html; application/octet-stream whl gz zip; }}
access_log off;
server_tokens off;
log_not_found off;
sendfile on;
client_max_body_size 1k;
client_body_temp_path {cache}/temporary/body;
proxy_temp_path {cache}/temporary/proxy;
fastcgi_temp_path {cache}/temporary/fastcgi;
uwsgi_temp_path {cache}/temporary/uwsgi;
scgi_temp_path {cache}/temporary/scgi;
proxy_cache_path {cache}/listings levels=1:2 keys_zone=listings:8m max_size=1g inactive=30d use_temp_path=off;
proxy_cache_path {cache}/files levels=1:2 keys_zone=files:16m max_size=10g min_free=512m inactive=365d use_temp_path=off;
proxy_http_version 1.1;
proxy_set_header Connection "";
proxy_ssl_server_name on;
proxy_ssl_verify on;
proxy_ssl_verify_depth 6;
proxy_ssl_protocols TLSv1.2 TLSv1.3;
proxy_ssl_trusted_certificate {authorities};
proxy_connect_timeout 10s;
proxy_read_timeout 60s;
proxy_next_upstream error timeout http_502 http_503;
proxy_next_upstream_tries 2;
proxy_ignore_client_abort off;
proxy_cache_lock on;
# One build waits for another's download of the same file rather than making one of its own.
proxy_cache_lock_timeout 15m;
proxy_cache_lock_age 15m;
proxy_cache_revalidate on;
# What was had before is served when the index is away.
proxy_cache_use_stale error timeout updating http_429 http_500 http_502 http_503 http_504;
proxy_ignore_headers Vary Set-Cookie Cache-Control Expires X-Accel-Expires X-Accel-Redirect X-Accel-Buffering;
proxy_hide_header Set-Cookie;
map $http_accept $listing {{
        default html;
        "~application/vnd\\.pypi\\.simple\\.v1\\+json" json;
}}
map $listing $listing_accept {{
        html "application/vnd.pypi.simple.v1+html, text/html;q=0.9";
        json "{accept}";
}}
# As it was written: what is escaped in a link stays so.
map $request_uri $index_rest {{ "~^/simple(?<rest>/[^?#]*)" $rest; }}
map $request_uri $file_rest {{ "~^/files/[0-9]+(?<rest>/[^?#]*)" $rest; }}
"""

SERVER = """server {{
listen unix:{socket};
server_name _;
if ($request_method !~ ^(GET|HEAD)$) {{ return 405; }}
location / {{ default_type text/plain; return 404 "there is nothing here: /simple/, /files/, /local/, /wheels/\\n"; }}
location ~ "^/wheels/([0-9a-f]{{64}})/([A-Za-z0-9._+-]+\\.whl)$" {{ alias {client_wheels}/$1/$2; }}
"""


def _upstreams(origins: list[Origin]) -> str:
    """A fixed group of addresses for each host that /etc/hosts knows; others are resolved as they are needed."""
    known, lines = addresses(), []
    for number, origin in enumerate(origins):
        fixed = known.get(origin.name)
        if fixed:
            port = urllib.parse.urlsplit(origin.url).port or (443 if origin.scheme == "https" else 80)
            lines.append(f"upstream origin{number} {{ {' '.join(f'server {address}:{port};' for address in fixed)} }}")
            lines.append(f'map "" $origin{number} {{ default "{origin.scheme}://origin{number}"; }}')
        else:
            lines.append(f'map "" $origin{number} {{ default "{origin.url}"; }}')
    servers = nameservers()
    if servers:
        lines.append(f"resolver {' '.join(servers)} valid=5m;\nresolver_timeout 5s;")
    return "".join(f"{line}\n" for line in lines)


def _to(number: int, origin: Origin) -> str:
    """What is common to all that is asked of one origin."""
    text = (f"proxy_ssl_name {origin.name};\nproxy_set_header Host {origin.host};\n"
            'proxy_set_header Accept-Encoding "";\n')
    if origin.authorization:
        text += f"proxy_set_header Authorization {quoted(origin.authorization)};\n"
    return text


def _links(index: Index, origins: list[Origin]) -> str:
    """Links to files become links to here. A page lies at /simple/NAME/, and its links mean the index's own place."""
    lines = ["sub_filter_once off;",
             "sub_filter_types application/vnd.pypi.simple.v1+json application/vnd.pypi.simple.v1+html;"]
    for number, origin in enumerate(origins):
        lines.append(f'sub_filter "{origin.url}/" "/files/{number}/";')
    for before in ('href="', "href='", '"url":"', '"url": "'):
        quote = "'" if '"' in before else '"'
        lines.append(f'sub_filter {quote}{before}/{quote} {quote}{before}/files/0/{quote};')
        lines.append(f'sub_filter {quote}{before}../{quote} '
                     f'{quote}{before}/files/0{index.path}$index_rest../{quote};')
    return "".join(f"{line}\n" for line in lines)


def _index_locations(index: Index) -> str:
    """The index and its files."""
    if index.origin is None:
        return f"location /simple/ {{ default_type text/plain; return 404 {quoted(printable(index.why))}; }}\n"
    origins = [index.origin, *index.files]
    text = f"""location /simple/ {{
{_to(0, index.origin)}proxy_set_header Accept $listing_accept;
proxy_cache listings;
proxy_cache_key "$listing {index.origin.url}{index.path}$index_rest";
proxy_cache_valid 200 301 1m;
proxy_cache_valid 404 10s;
proxy_pass $origin0{index.path}$index_rest;
proxy_redirect {index.origin.url}{index.path}/ /simple/;
proxy_redirect {index.path}/ /simple/;
{_links(index, origins)}error_page 502 504 @away;
}}
location @away {{
default_type text/plain;
return 502 "the package index {index.origin.name} cannot be reached from the cluster's master; next, there: journalctl --unit clupy-index\\n";
}}
"""
    for number, origin in enumerate(origins):
        # Files of packages alone: the rest of that host is none of a build's business.
        text += f"""location ~ "^/files/{number}/.+\\.(whl|whl\\.metadata|tar\\.gz|tar\\.gz\\.metadata|zip|tar\\.bz2|tgz)$" {{
{_to(number, origin)}proxy_cache files;
proxy_cache_key "{origin.url}$file_rest";
proxy_cache_valid 200 365d;
proxy_cache_valid 404 10s;
proxy_pass $origin{number}$file_rest;
proxy_force_ranges on;
"""
        for other, target in enumerate(origins):
            text += f"proxy_redirect {target.url}/ /files/{other}/;\n"
        text += "error_page 502 504 @away;\n}\n"
    return text


def configuration(index: Index, socket: str = SOCKET, directory: str = DIRECTORY, cache: str = CACHE,
                  client_wheels: str = CLIENT_WHEELS) -> str:
    """The configuration of nginx."""
    text = HEAD.format(directory=directory, cache=cache, authorities=quoted(index.authorities), accept=ACCEPT)
    if index.origin:
        text += _upstreams([index.origin, *index.files])
    text += SERVER.format(socket=socket, client_wheels=client_wheels)
    for number, folder in enumerate(index.folders):
        text += f"location /local/{number}/ {{ alias {quoted(folder.rstrip('/') + '/')}; autoindex on; }}\n"
    return text + _index_locations(index) + "}\n}\n"


def refusal(message: str, socket: str, directory: str, cache: str) -> str:
    """A configuration that answers everything with one sentence."""
    head = HEAD.format(directory=directory, cache=cache, authorities=quoted(AUTHORITIES), accept=ACCEPT)
    return (f"{head}server {{\nlisten unix:{socket};\nlocation / {{ default_type text/plain; "
            f"return 503 {quoted(printable(message))}; }}\n}}\n}}\n")


def install(text: str, options: argparse.Namespace) -> int:
    """Puts a configuration in its place, if it is another one than before and nginx takes it. Returns an exit code."""
    path = Path(options.directory) / "nginx.conf"
    if path.exists() and path.read_text() == text:
        return 0
    for name in ("temporary", "listings", "files"):
        (Path(options.cache) / name).mkdir(exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    tested = subprocess.run([options.nginx, "-e", "stderr", "-t", "-q", "-c", str(fresh)], capture_output=True, text=True,
                            env={name: value for name, value in os.environ.items() if name != "NGINX"}, check=False)
    if tested.returncode != 0:
        print(f"clupy-index-config: nginx refuses the configuration: {tested.stderr.strip()}", file=sys.stderr)
        return EX_CONFIG
    fresh.rename(path)
    if options.reload:
        reload(options.reload)
    return 0


def describe(index: Index) -> str:
    """One line for people."""
    if index.origin is None:
        return f"no index ({index.why}), {len(index.folders)} folders of wheels"
    files = ", ".join(origin.name for origin in index.files) or "the same host"
    return (f"{index.origin.url}{index.path}, files on {files if index.complete else f'{files} (not sure)'}, "
            f"{len(index.folders)} folders of wheels")


def apply(options: argparse.Namespace, seen: str) -> int:
    """Does what the options say; seen: the manifest's digest before it is read. Returns an exit code."""
    try:
        if options.ask:
            pip = ask_pip()
            index = str(pip["index"]).rstrip("/")
            print(json.dumps({**pip, "index": index, "files": ask_index(index, str(pip["authorities"] or AUTHORITIES))}))
            return 0
        found = find_index(read_keys(options.keys), None if options.check else Path(options.cache) / "files.json")
        text = configuration(found, options.socket, options.directory, options.cache, options.client_wheels)
    except (ConfigError, OSError, ValueError) as error:
        print(f"clupy-index-config: {error}", file=sys.stderr)
        if options.check or options.ask:
            return EX_CONFIG
        # At the start: those who ask are told, and a reload mends it.
        status = EX_CONFIG if options.reload else install(
            refusal(str(error), options.socket, options.directory, options.cache), options)
        tell(Path(options.directory), seen)
        return status
    print(describe(found))
    if options.check:
        return 0
    status = install(text, options)
    tell(Path(options.directory), seen)
    return status


def main() -> int:
    parser = argparse.ArgumentParser(prog="clupy-index-config", description="Writes the configuration of "
                                     "clupy-index.service from clupy.master.dependency.yaml.")
    parser.add_argument("--check", action="store_true", help="write nothing, say what the index would be")
    parser.add_argument("--ask", action="store_true", help="print what pip and its index say, as JSON; reads no file of CluPy's")
    parser.add_argument("--reload", type=int, metavar="PID", help="have this nginx read the configuration if it has changed")
    parser.add_argument("--manifest", default=MANIFEST, help=argparse.SUPPRESS)
    parser.add_argument("--keys", default=KEYS, metavar="PROGRAM", help=argparse.SUPPRESS)
    parser.add_argument("--nginx", default="/usr/sbin/nginx", help=argparse.SUPPRESS)
    parser.add_argument("--directory", default=DIRECTORY, help=argparse.SUPPRESS)
    parser.add_argument("--cache", default=CACHE, help=argparse.SUPPRESS)
    parser.add_argument("--socket", default=SOCKET, help=argparse.SUPPRESS)
    parser.add_argument("--client-wheels", default=CLIENT_WHEELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    while True:
        seen = digest_of(Path(options.manifest))
        status = apply(options, seen)
        # What has changed meanwhile announced itself to nobody.
        if options.check or options.ask or digest_of(Path(options.manifest)) == seen:
            return status


if __name__ == "__main__":
    sys.exit(main())
