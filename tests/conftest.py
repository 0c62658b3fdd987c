"""Set-up of every test process."""

import signal

# A job in the background of a shell ignores Ctrl-C, and its children inherit that; tests send it to theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
