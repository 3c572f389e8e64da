"""Those who look after the gateway: E077."""

from __future__ import annotations

from mailgate.config.codes.entry import Entry, lmtp

_LISTENER = lmtp("tls off\ndeliver_to lmtp tcp://127.0.0.1:24")

CODES: dict[str, Entry] = {
    "E0770": Entry(
        "an admin address that is open to others",
        "Whoever reaches an `admin` address that is not on loopback would see the state of the gateway. There everything needs"
        " a `token`, the metrics too; without one in the block, nobody could come in, and that was hardly meant.",
        bad=f"admin tcp://192.0.2.1:8025\n{_LISTENER}",
        good=f"admin tcp://127.0.0.1:8025\n{_LISTENER}",
    ),
}
