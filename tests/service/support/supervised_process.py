"""`polytask serve` with the engine module of the test's choice: its name is the argument, the settings are variables.

What does nothing for RESTART_S seconds is restarted.
"""

from __future__ import annotations

import os
import sys
from unittest.mock import patch

from polytask.service.config.settings import Settings
from polytask.service.observability.logs import configure_logs
from polytask.service.processes.supervisor import serve

if __name__ == "__main__":
    settings = Settings.from_environment(os.environ)
    configure_logs("supervisor", settings.log_format)
    with patch("polytask.service.processes.supervisor.RESTART_S", float(os.environ.get("RESTART_S", "inf"))):
        serve(settings, engine=sys.argv[1])
