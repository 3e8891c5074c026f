"""The command of the bundle; its interpreter is isolated, as that of the operand image is."""

import os
import sys

from instance_manager import bundle

bundle.clean_environment(os.environ)

from instance_manager.__main__ import main  # noqa: E402 - the environment comes first

sys.exit(main())
