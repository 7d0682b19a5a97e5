"""A TCP link on this host that takes a fixed time: what is sent arrives as it was, later."""
import queue
import socket
import threading
import time


class SlowLink:
    """Listens at `address`, and passes bytes to `target` and back, each way within `seconds`."""

    def __init__(self, target, seconds):
        host, port = target.rsplit(":", 1)
        self.target, self.seconds = (host, int(port)), seconds
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:  # closed
                return
            far = socket.create_connection(self.target)
            for one, other in ((near, far), (far, near)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                on_the_way = queue.SimpleQueue()
                threading.Thread(target=self._take, args=(one, on_the_way), daemon=True).start()
                threading.Thread(target=self._give, args=(other, on_the_way), daemon=True).start()

    def _take(self, source, on_the_way):
        data = b"."
        while data:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            on_the_way.put((time.monotonic() + self.seconds, data))

    def _give(self, sink, on_the_way):
        data = b"."
        while data:
            due, data = on_the_way.get()
            time.sleep(max(0, due - time.monotonic()))
            try:
                if data:
                    sink.sendall(data)
                else:
                    sink.shutdown(socket.SHUT_WR)
            except OSError:
                return
