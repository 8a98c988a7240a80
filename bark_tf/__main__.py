"""`python -m bark_tf` is `bark-tf`."""

import sys

from bark_tf.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
