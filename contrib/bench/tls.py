"""The comparison with TLS on both sides: the same certificate for everybody, a handshake for every message that comes in.

smtp-source and smtp-sink do not speak TLS, so stunnel stands before each relay and before the sink, without session resumption.
Its work is the same for all relays and not counted as theirs. Postfix's proxy can't speak TLS to what is behind it, so it comes
twice: with TLS on the side of the clients only, which is to its advantage, and with a stunnel of its own towards the sink, which
is what whoever wants both sides under TLS there has to run, and is counted. Postfix with its queue has TLS on both sides itself.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from .processes import NotReady, Running, free_ports
from .servers import Relay, Sink, gateway, lay_out_postfix, postfix_master, tool, wait_for_workers

_STUNNEL = """\
foreground = yes
pid =
syslog = no
debug = crit
[tunnel]
client = {client}
accept = 127.0.0.1:{accept}
connect = 127.0.0.1:{connect}
sslVersionMin = TLSv1.2
options = NO_TICKET
sessionCacheSize = 1
TIMEOUTclose = 0
{more}
"""


class Certificate:
    """One key pair, for all servers of the run."""

    def __init__(self, directory: Path) -> None:
        self.path, self.key = directory / "bench.pem", directory / "bench.key"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        try:
            subprocess.run([*command, "-keyout", self.key, "-out", self.path], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotReady(f"openssl can't make a certificate: {error}") from error
        self.key.chmod(0o600)


class Tunnel:
    """stunnel with TLS on one of its sides: as the server it takes TLS, as the client clear text."""

    def __init__(self, directory: Path, name: str, connect: int, server: Certificate | None = None) -> None:
        self.port = free_ports(1)[0]
        more = f"cert = {server.path}\nkey = {server.key}" if server else ""
        config = directory / f"{name}.stunnel"
        client = "no" if server else "yes"
        config.write_text(_STUNNEL.format(client=client, accept=self.port, connect=connect, more=more))
        command = [tool("stunnel4", "stunnel4"), str(config)]
        self.running = Running(command, directory, directory / f"{name}.log", self.port, tls=server is not None)

    def stop(self) -> None:
        self.running.stop()


@dataclass(frozen=True, slots=True)
class TlsSink:
    """The sink of the run: under TLS at ``port``, in clear at ``plain``."""

    certificate: Certificate
    plain: int
    port: int
    _tunnel: Tunnel

    @classmethod
    def before(cls, sink: Sink, directory: Path) -> TlsSink:
        certificate = Certificate(directory)
        tunnel = Tunnel(directory, "tls-sink", sink.port, certificate)
        return cls(certificate, sink.port, tunnel.port, tunnel)

    def stop(self) -> None:
        self._tunnel.stop()


class TlsRelay(Relay):
    """``port`` takes clear text for the relay behind it."""

    def __init__(self, sink: TlsSink, directory: Path) -> None:
        home = directory / f"tls-{type(self).__name__}"
        listening = free_ports(1)[0]
        self.server = self.start(sink, home, listening)
        try:
            self._tunnel = Tunnel(directory, home.name, listening)
        except NotReady:
            self.server.stop()
            raise
        self.port = self._tunnel.port

    def start(self, sink: TlsSink, home: Path, port: int) -> Running:
        raise NotImplementedError

    def stop(self) -> None:
        self._tunnel.stop()
        super().stop()


class MailgateTls(TlsRelay):
    name = "mailgate"
    workers = 1

    def start(self, sink: TlsSink, home: Path, port: int) -> Running:
        home.mkdir(mode=0o755)
        config = home / "mailgate.conf"
        own = sink.certificate
        config.write_text(_MAILGATE.format(home=home, port=port, sink=sink.port, certificate=own.path, key=own.key))
        return Running(gateway(config, self.workers), home, home / "log", port, tls=True)


class MailgateTwoTls(MailgateTls):
    """The same with two workers, both of them up."""

    name = "mailgate-2"
    workers = 2

    def start(self, sink: TlsSink, home: Path, port: int) -> Running:
        running = super().start(sink, home, port)
        wait_for_workers(running)
        return running


class PostfixQueueTls(TlsRelay):
    """TLS on both sides."""

    name = "Postfix queue"
    proxy = False

    def start(self, sink: TlsSink, home: Path, port: int) -> Running:
        if os.geteuid() != 0:
            raise NotReady("Postfix's master needs root to start its services")
        own = sink.certificate
        options = " -o smtpd_tls_wrappermode=yes -o smtpd_tls_security_level=encrypt"
        options += f" -o smtpd_tls_cert_file={own.path} -o smtpd_tls_key_file={own.key}"
        to = sink.plain if self.proxy else sink.port
        client = f"smtp_tls_wrappermode = yes\nsmtp_tls_security_level = encrypt\nsmtp_tls_CAfile = {own.path}\n"
        more = "" if self.proxy else client
        lay_out_postfix(home, port, to, proxy=self.proxy, options=options, more=more)
        return Running([postfix_master(), "-c", str(home / "etc"), "-d"], home, home / "master.log", port, tls=True)


class PostfixProxyTls(PostfixQueueTls):
    """TLS on the side of the clients only."""

    name = "Postfix proxy"
    proxy = True


class PostfixProxyTlsTwice(PostfixProxyTls):
    """TLS on both sides, by a stunnel that is counted with it."""

    name = "Postfix proxy, stunnel"

    def __init__(self, sink: TlsSink, directory: Path) -> None:
        self._beside = Tunnel(directory, "beside-postfix", sink.port)
        super().__init__(sink, directory)

    def start(self, sink: TlsSink, home: Path, port: int) -> Running:
        return super().start(replace(sink, plain=self._beside.port), home, port).with_more(self._beside.running)

    def stop(self) -> None:
        super().stop()
        self._beside.stop()


_MAILGATE = """\
hostname gateway.bench.test
state_dir {home}
runtime_dir {home}

target.smtp sink {{
    targets tls://127.0.0.1:{sink}
    tls_client {{
        root_ca {certificate}
    }}
}}

smtp tls://127.0.0.1:{port} {{
    reverse_lookup no
    tls file {certificate} {key}
    source bench.test {{
        destination bench.test {{
            deliver_to &sink
        }}
        default_destination {{
            reject 550 5.7.1 "relaying denied"
        }}
    }}
    default_source {{
        reject 553 5.7.1 "not for us"
    }}
}}
"""

TLS_RELAYS: dict[str, type[TlsRelay]] = {
    "postfix-proxy": PostfixProxyTls,
    "postfix-proxy-stunnel": PostfixProxyTlsTwice,
    "postfix-queue": PostfixQueueTls,
    "mailgate": MailgateTls,
    "mailgate-2": MailgateTwoTls,
}
