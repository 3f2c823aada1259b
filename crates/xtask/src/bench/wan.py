"""A long line between two network namespaces, where the kernel has no netem: python wan.py <a> <b> <one-way ms> <Mbit/s> <loss %>.

Each namespace gets an end of the line (10.91.0.1 and 10.91.0.2); this process carries the frames from one to the other,
each after its delay and no faster than the rate. It says "ready" once the line is up, and runs until it is ended.
"""

import collections
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
MTU = 1500
# What a router on such a line keeps: a tenth of a second.
QUEUE_SECONDS = 0.1


class End:
    """One end: frames that come out of it wait in `queue` until the line has carried them to the other."""

    def __init__(self, name, namespace, address):
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
        ip = ["ip", "-n", namespace]
        subprocess.check_call(["ip", "link", "set", name, "netns", namespace])
        subprocess.check_call([*ip, "addr", "add", f"{address}/24", "dev", name])
        subprocess.check_call([*ip, "link", "set", name, "mtu", str(MTU), "up"])
        subprocess.check_call([*ip, "link", "set", "lo", "up"])
        self.queue = collections.deque()
        self.free_at = 0.0


def main(a, b, delay_ms, rate_mbit, loss_percent):
    ends = [End("wan-a", a, "10.91.0.1"), End("wan-b", b, "10.91.0.2")]
    delay, rate, loss = delay_ms / 1e3, rate_mbit * 1e6 / 8, loss_percent / 100
    dice = random.Random(1)
    print("ready", flush=True)
    while True:
        now, wait = time.monotonic(), 1.0
        for end, other in (ends, reversed(ends)):
            while end.queue and end.queue[0][0] <= now:
                try:
                    os.write(other.fd, end.queue.popleft()[1])
                except OSError:
                    pass
            if end.queue:
                wait = min(wait, end.queue[0][0] - now)
        readable = select.select([end.fd for end in ends], [], [], max(0.0, wait))[0]
        now = time.monotonic()
        for end in ends:
            if end.fd not in readable:
                continue
            for _ in range(64):
                try:
                    frame = os.read(end.fd, 65_536)
                except BlockingIOError:
                    break
                if end.free_at > now + QUEUE_SECONDS or dice.random() < loss:
                    continue
                end.free_at = max(now, end.free_at) + len(frame) / rate
                end.queue.append((end.free_at + delay, frame))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]))
