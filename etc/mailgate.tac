# Run with `twistd -ny mailgate.tac`. MAILGATE_CONFIG names another configuration file.
import os

from twisted.logger import ILogObserver

from mailgate.logs import standard_output
from mailgate.service import DEFAULT_CONFIG
from mailgate.service import application as make_application

application = make_application(os.environ.get("MAILGATE_CONFIG", DEFAULT_CONFIG))
application.setComponent(ILogObserver, standard_output())  # without this line twistd's --logfile and --syslog decide
