# Run with `twistd -ny mailgate.tac`. MAILGATE_CONFIG names another configuration file, MAILGATE_WORKERS how many
# processes serve (a number, or auto for one for each core).
import os

from mailgate.service import DEFAULT_CONFIG
from mailgate.service import application as make_application

# It logs where the file's `log` lines say, else to standard output; with application.unsetComponent(ILogObserver) twistd decides.
application = make_application(os.environ.get("MAILGATE_CONFIG", DEFAULT_CONFIG), workers=os.environ.get("MAILGATE_WORKERS", "1"))
