# Shakes hands with a ClientHello that is cut into records of SIZE bytes, each in
# segments of its own where SEGMENT is not 0, and asks for a page. Prints the
# answer's status line.
import socket, ssl, sys

host, port, size, segment = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
s = socket.create_connection((host, port))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
context = ssl.create_default_context()
context.set_alpn_protocols(["http/1.1"])
if len(sys.argv) > 5:  # pad the hello with that many protocols
    context.set_alpn_protocols(["http/1.1"] + ["x%03d" % i + "y" * 240 for i in range(int(sys.argv[5]))])
tls = context.wrap_bio(incoming, outgoing, server_hostname=host)


def step(f):
    while True:
        try:
            return f()
        except ssl.SSLWantReadError:
            flush()
            data = s.recv(65536)
            if not data:
                incoming.write_eof()
            else:
                incoming.write(data)


first = True


def flush():
    global first
    data = outgoing.read()
    if first and data:
        first = False
        message = b""
        while data:
            n = int.from_bytes(data[3:5], "big")
            message += data[5:5 + n]
            data = data[5 + n:]
        records = b"".join(b"\x16\x03\x01" + len(message[i:i + size]).to_bytes(2, "big") + message[i:i + size] for i in range(0, len(message), size))
        if segment:
            for i in range(0, len(records), segment):
                s.sendall(records[i:i + segment])
        else:
            s.sendall(records)
        return
    s.sendall(data)


step(tls.do_handshake)
tls.write(b"GET /split HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host.encode())
flush()
print(step(lambda: tls.read(4096)).split(b"\r\n")[0].decode())
