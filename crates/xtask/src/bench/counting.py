"""A service that counts: each request's body, a number, is appended to a file of this process's own in a directory, before
the number is the answer: python counting.py <directory>. On SIGTERM it ends at once; who runs it says when."""

import asyncio
import os
import re
import sys

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Counting(asyncio.Protocol):
    log = os.open(f"{sys.argv[1]}/{os.getpid()}-{os.urandom(4).hex()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def connection_made(self, transport):
        self.transport, self.held = transport, b""

    def data_received(self, data):
        self.held += data
        while (end := self.held.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self.held, 0, end)
            after = end + 4 + (int(length[1]) if length else 0)
            if len(self.held) < after:
                return
            body, self.held = self.held[end + 4 : after], self.held[after:]
            if body:
                os.write(self.log, body + b"\n")
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Counting, "127.0.0.1", int(os.environ["PORT"]))
    await server.serve_forever()


asyncio.run(main())
