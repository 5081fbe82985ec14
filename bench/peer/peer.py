"""oslo.messaging doing what we do, on the same RabbitMQ node: CALL and CAST between two processes.

    peer.py server URI          serves until it is killed; prints `ready` when it does
    peer.py call URI …          asks, and prints what it saw as one line of JSON
    peer.py cast URI …

Set up as its documentation has it: the threading executor (eventlet is deprecated, and slower
here), 64 workers, a connection for each thread of the client, publisher confirms (always on), and
`at_least_once`, which makes a request mandatory. All else is its default: classic queues that are
not durable.

It promises less than we do. The queues and what is in them end with the broker. A request is
acknowledged before it is run and is journaled nowhere: one that a server had when it died is lost.
Nothing is run once only: the same request sent again is run again. A request has no deadline of its
own on the server. So its figures stand beside ours; nothing is judged by them.
"""

import argparse
import json
import logging
import os
import threading
import time
import traceback
import warnings

# It still imports eventlet, which then says that nobody should.
warnings.simplefilter("ignore")

import oslo_messaging  # noqa: E402
from oslo_config import cfg  # noqa: E402

TOPIC = "bench"
SERVER = "h1"
# As many as `executor_thread_pool_size` is by default, each with its connection to reply on.
WORKERS = 64
# Of casts that the server has not run yet: enough to keep it busy.
AHEAD = 1000


class Methods:
    """What the server serves."""

    target = oslo_messaging.Target()

    def __init__(self):
        self._lock = threading.Lock()
        self._worked = 0

    def look(self, context, given):
        """The read-only method of the CALL rows."""
        return given

    def work(self, context, given):
        """What the CAST row has run."""
        with self._lock:
            self._worked += 1

    def worked(self, context):
        """How often `work` has run, and when that was looked at."""
        with self._lock:
            return [self._worked, time.monotonic()]


def transport(uri, connections):
    # The global one: its tracing has its options only there.
    conf = cfg.CONF
    conf([], project="bench", default_config_files=[], default_config_dirs=[])
    url = uri.replace("amqp://", "rabbit://", 1) + f"?rpc_conn_pool_size={connections}"
    return oslo_messaging.get_rpc_transport(conf, url)


def serve(uri):
    target = oslo_messaging.Target(topic=TOPIC, server=SERVER)
    server = oslo_messaging.get_rpc_server(
        transport(uri, WORKERS), target, [Methods()], executor="threading"
    )
    server.start()
    print("ready", flush=True)
    threading.Event().wait()


class Load:
    """Threads that do one thing again and again, and how long each time took."""

    def __init__(self, threads, once):
        self._counts = False
        self._over = False
        self._times = []
        self._all_there = threading.Barrier(threads + 1)
        self._threads = [
            threading.Thread(target=self._run, args=(once,), daemon=True) for _ in range(threads)
        ]

    def _run(self, once):
        # Its connection is not a part of what is measured.
        once()
        self._all_there.wait()
        while not self._over:
            began, counted = time.monotonic(), self._counts
            once()
            if counted and not self._over:
                # Appending is atomic.
                self._times.append(time.monotonic() - began)

    def measure(self, warm, span, look):
        """What `look` said at the beginning and at the end of the span, and the times in it."""
        for thread in self._threads:
            thread.start()
        self._all_there.wait()
        time.sleep(warm)
        self._counts = True
        first = look()
        time.sleep(span)
        last = look()
        self._over = True
        for thread in self._threads:
            thread.join()
        return first, last, sorted(self._times)

    def answered(self):
        return [len(self._times), time.monotonic()]


def client(uri, connections):
    target = oslo_messaging.Target(topic=TOPIC, server=SERVER)
    return oslo_messaging.get_rpc_client(
        transport(uri, connections),
        target,
        transport_options=oslo_messaging.TransportOptions(at_least_once=True),
    )


def call(asker, args):
    load = Load(args.threads, lambda: asker.call({}, "look", given={"n": 1}))
    return load.measure(args.warm, args.span, load.answered)


class Window:
    """Lets as many casts be sent as are at most `AHEAD` of what the server has run."""

    def __init__(self, asker):
        self._asker = asker
        self._changed = threading.Condition()
        # Other casts may have been run before.
        self._sent = self._worked = asker.call({}, "worked")[0]
        threading.Thread(target=self._watch, daemon=True).start()

    def enter(self):
        with self._changed:
            self._changed.wait_for(lambda: self._sent - self._worked < AHEAD)
            self._sent += 1

    def _watch(self):
        while True:
            time.sleep(0.05)
            worked = self._asker.call({}, "worked")[0]
            with self._changed:
                self._worked = worked
                self._changed.notify_all()


def cast(asker, args):
    window = Window(asker)

    def once():
        window.enter()
        asker.cast({}, "work", given={"n": 1})

    # The rate is of what was run; the times are until the broker has confirmed.
    return Load(args.threads, once).measure(args.warm, args.span, lambda: asker.call({}, "worked"))


def fail(raised):
    """Ends the process with its thread: a rate is of answers that were right."""
    traceback.print_exception(raised.exc_value)
    os._exit(1)


def main():
    threading.excepthook = fail
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["server", "call", "cast"])
    parser.add_argument("uri")
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--warm", type=float, default=0.5, help="seconds before anything counts")
    parser.add_argument("--span", type=float, default=2.5, help="seconds that count")
    args = parser.parse_args()
    # Its warnings that 64 calls at once might be a leak are none.
    logging.basicConfig(level=logging.ERROR)
    if args.mode == "server":
        return serve(args.uri)
    # Two more than the threads: for what looks at the server, and for the replies.
    asker = client(args.uri, args.threads + 2)
    (began, since), (ended, until), times = (call if args.mode == "call" else cast)(asker, args)
    millis = [1000 * times[int(part * (len(times) - 1))] for part in (0.5, 0.99)]
    rate = (ended - began) / (until - since)
    print(json.dumps({"rate": rate, "p50": millis[0], "p99": millis[1]}), flush=True)
    # At once: its own end waits up to a minute for a call that is still under way.
    os._exit(0)


if __name__ == "__main__":
    main()
