"""Debian's rspamd with nothing but its normal worker and its milter: no Redis, no network, settings in a temporary directory."""

from __future__ import annotations

import http.client
import os
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.ports import free_port
from tests.support.servers import DEADLINE, missing, tool

CONFIG = """\
options {{
    pidfile = "{home}/rspamd.pid";
    rrd = "{home}/rspamd.rrd";
    stats_file = "{home}/stats.ucl";
    hs_cache_dir = "{home}/";
    url_tld = "{home}/tlds";
    local_addrs = ["192.168.0.0/16"];
    dns {{ nameserver = ["127.0.0.1:{dns}"]; timeout = 10ms; retransmits = 1; }}
    enable_test_patterns = true;
    history_file = "{home}/history";
}}
logging {{ type = "console"; level = "info"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; enabled = true; mime = true; }}
worker "rspamd_proxy" {{
    bind_socket = "127.0.0.1:{milter}"; count = 1; milter = yes; timeout = 20s;
    upstream "local" {{ default = yes; self_scan = yes; }}
}}
actions {{ reject = 15; add_header = 6; greylist = 4; }}
metric default {{ }}
"""


class RspamdServer:
    def __init__(self) -> None:
        program = tool("rspamd", "rspamd")
        if not Path("/usr/share/rspamd").exists():
            missing("rspamd's data", "rspamd")
        self._directory = tempfile.TemporaryDirectory(prefix="mailgate-rspamd-")
        home = Path(self._directory.name)
        home.chmod(0o777)
        (home / "tlds").write_text("org\ntest\nexample\n")
        self.port = free_port()
        self.milter_port = free_port()
        """Where it speaks the milter protocol."""
        config = home / "rspamd.conf"
        config.write_text(CONFIG.format(home=home, port=self.port, milter=self.milter_port, dns=free_port()))
        user = ["-u", "_rspamd", "-g", "_rspamd"] if os.geteuid() == 0 else []
        self._log = home / "log"
        with self._log.open("wb") as output:
            command = [program, "-f", *user, "-c", str(config)]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=home)
        end = time.monotonic() + DEADLINE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                log = self._log.read_text(errors="replace")
                self.stop()
                raise AssertionError(f"rspamd did not start:\n{log}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        probe = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            probe.request("GET", "/ping")
            return probe.getresponse().status == 200
        except OSError:
            return False
        finally:
            probe.close()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._directory.cleanup()
