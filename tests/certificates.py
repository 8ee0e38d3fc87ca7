# SPDX-License-Identifier: Apache-2.0
"""Authorities and certificates for tests, made with the openssl program."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple, Optional, Sequence

_CONFIG = """
[ca]
default_ca = authority
[authority]
dir = {folder}
database = $dir/index.txt
new_certs_dir = $dir
certificate = $dir/ca.crt
private_key = $dir/ca.key
default_md = sha256
rand_serial = yes
unique_subject = no
policy = any
default_crl_days = 30
[any]
commonName = supplied
[req]
distinguished_name = name
prompt = no
[name]
CN = CluPy test authority
[ca_extensions]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
"""
DAY = 86400


class Pair(NamedTuple):
    """Paths of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates into a folder, which is made. same_as: the folder of an authority that there is already; its
    key and certificate are taken, and what it has issued and revoked stays its own business."""

    def __init__(self, folder: Path, same_as: Optional[Path] = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.certificate = folder / "ca.crt"
        (folder / "openssl.cnf").write_text(_CONFIG.format(folder=folder))
        (folder / "index.txt").write_text("")
        if same_as is not None:
            for file in ("ca.crt", "ca.key"):
                shutil.copy(same_as / file, folder)
            return
        self._key(folder / "ca.key")
        self._openssl("req", "-new", "-x509", "-config", "openssl.cnf", "-extensions", "ca_extensions", "-days", "365",
                      "-key", "ca.key", "-out", "ca.crt")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, cwd=self.folder, stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def _key(self, path: Path) -> None:
        self._openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(path))
        path.chmod(0o600)

    def issue(self, file: str, names: Sequence[str], usage: str = "clientAuth", begin: float = -DAY,
              end: float = 100 * DAY, key: Optional[Path] = None) -> Pair:
        """names: as openssl has them, "URI:clupy:user:alice", "DNS:host". begin, end: seconds from now."""
        made = Pair(self.folder / f"{file}.crt", key or self.folder / f"{file}.key")
        if key is None:
            self._key(made.key)
        extensions = self.folder / f"{file}.ext"
        extensions.write_text(f"basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n"
                              f"extendedKeyUsage = {usage}\nauthorityKeyIdentifier = keyid\n"
                              + (f"subjectAltName = {','.join(names)}\n" if names else ""))
        self._openssl("req", "-new", "-config", "openssl.cnf", "-key", str(made.key), "-subj", f"/CN={file}", "-out",
                      f"{file}.csr")
        dates = [time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + moment)) for moment in (begin, end)]
        self._openssl("ca", "-batch", "-notext", "-config", "openssl.cnf", "-startdate", dates[0], "-enddate", dates[1],
                      "-extfile", extensions.name, "-in", f"{file}.csr", "-out", f"{file}.crt")
        return made

    def server(self, file: str = "master", names: Sequence[str] = ("DNS:localhost", "IP:127.0.0.1"),
               uri: str = "clupy:master", begin: float = -DAY, end: float = 100 * DAY) -> Pair:
        """A master's."""
        return self.issue(file, [f"URI:{uri}", *names], "serverAuth, clientAuth", begin, end)

    def user(self, name: str = "alice", begin: float = -DAY, end: float = 100 * DAY, file: str = "",
             key: Optional[Path] = None) -> Pair:
        """A user's."""
        return self.issue(file or name, [f"URI:clupy:user:{name}"], "clientAuth", begin, end, key)

    def revoke(self, pair: Pair) -> Path:
        """Returns the revocation list."""
        self._openssl("ca", "-config", "openssl.cnf", "-revoke", str(pair.certificate))
        self._openssl("ca", "-config", "openssl.cnf", "-gencrl", "-out", "ca.crl")
        return self.folder / "ca.crl"
