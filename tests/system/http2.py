"""An HTTP/2 client that can do what gRPC's does not: begin calls and leave them as they are."""
import socket
import struct
import threading

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4


def text(value):
    """A string of HPACK, not compressed."""
    assert len(value) < 127
    return bytes([len(value)]) + value.encode()


class Connection:
    """Sends within the windows that the server grants; a thread reads what comes back.

    polite: it acknowledges the server's settings, which bind it from then on
    """

    def __init__(self, address, polite=True):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.changed = threading.Condition()
        self.sending = threading.Lock()  # a frame is sent whole, by either thread
        self.window, self.windows, self.first_window, self.frame = 65535, {}, 65535, 16384
        self.ended = {}  # streams that the server has reset, and why
        self.polite, self.agreed = polite, False  # agreed: the server's settings are acknowledged
        self.over = False
        self.next_stream = 1
        self.socket.sendall(PREFACE)
        self.send(SETTINGS, 0, 0, b"")
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def send(self, kind, flags, stream, payload):
        frame = struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload
        with self.sending:
            self.socket.sendall(frame)

    def begin(self, method="/h2oserve.v1.Inference/Generate"):
        """The headers of a call; returns its stream."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        block = (b"\x83\x86" + b"\x04" + text(method) + b"\x01" + text("localhost") + b"\x00" + text("te") + text("trailers")
                 + b"\x0f\x10" + text("application/grpc"))
        with self.changed:
            self.windows[stream] = self.first_window
        self.send(HEADERS, END_HEADERS, stream, block)
        return stream

    def send_data(self, stream, data, patience=3):
        """As much of `data` as the server lets in; returns the number of bytes."""
        sent = 0
        while sent < len(data):
            with self.changed:
                self.changed.wait_for(lambda: self.over or stream in self.ended or
                                      min(self.window, self.windows[stream]) > 0, patience)
                size = min(self.window, self.windows[stream], self.frame, len(data) - sent)
                if self.over or stream in self.ended or size <= 0:
                    return sent
                self.window -= size
                self.windows[stream] -= size
            try:
                self.send(DATA, 0, stream, data[sent:sent + size])
            except OSError:
                return sent
            sent += size
        return sent

    def close(self):
        self.socket.close()

    def _exactly(self, size):
        parts = b""
        while len(parts) < size:
            part = self.socket.recv(size - len(parts))
            if not part:
                raise OSError("closed")
            parts += part
        return parts

    def _read(self):
        try:
            while True:
                head = self._exactly(9)
                payload = self._exactly(int.from_bytes(head[:3], "big"))
                with self.changed:
                    self._take(head[3], head[4], int.from_bytes(head[5:], "big"), payload)
                    self.changed.notify_all()
        except OSError:
            with self.changed:
                self.over = True
                self.changed.notify_all()

    def _take(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                key, value = struct.unpack_from(">HI", payload, at)
                if key == 4:
                    for open_stream in self.windows:
                        self.windows[open_stream] += value - self.first_window
                    self.first_window = value
            if self.polite:
                self.send(SETTINGS, ACK, 0, b"")
                self.agreed = True
        elif kind == PING and not flags & ACK:
            self.send(PING, ACK, 0, payload)
        elif kind == WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self.window += more
            elif stream in self.windows:
                self.windows[stream] += more
        elif kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
            self.ended[stream] = kind
        elif kind == GOAWAY:
            self.ended[0] = payload
