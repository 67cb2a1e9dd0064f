"""Signals that ask a training run to stop."""

import os
import signal
import sys
import threading


class Signals:
    """Records a SIGTERM or Ctrl-C, so that training can stop after a complete step.

    A second Ctrl-C ends the process immediately, even while it waits for input: Python runs signal
    handlers only between operations, so a thread watches for it.
    """

    def __enter__(self):
        self.received = False
        self.number = signal.SIGTERM
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
            read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
            threading.Thread(target=_exit_at_second_interrupt, args=[read], daemon=True).start()
        return self

    def _handle(self, number, _):
        self.received = True
        self.number = signal.Signals(number)

    def __exit__(self, *_):
        if self._previous:
            signal.set_wakeup_fd(self._previous_fd)
            os.close(self._write)  # ends the thread
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def _exit_at_second_interrupt(pipe: int):
    """Read the numbers of received signals from a pipe until it is closed."""
    interrupts = 0
    with open(pipe, "rb", buffering=0) as file:
        while number := file.read(1):
            interrupts += number[0] == signal.SIGINT
            if interrupts == 2:
                print("Interrupted.", file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGINT)
            if number[0] == signal.SIGINT:
                message = "\nStopping after this step. Press Ctrl-C again to stop now."
                print(message, file=sys.stderr, flush=True)
