"""Records the frames in this folder from real mongods (6.0.5): python3 record.py OUT_DIR STANDALONE_PORT REPLSET_PORT

The replica set is a single node of a set whose configuration also names members that do not run.
Needs PyMongo for its BSON. The sockets are plain ones: every byte in the files is what mongod took and sent.
"""
import socket, struct, sys, os
import bson

out, standalone, replset = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def msg(body, flags=0, request_id=7, extra=b""):
    payload = struct.pack("<I", flags) + b"\0" + bson.encode(body) + extra
    return struct.pack("<iiii", 16 + len(payload), request_id, 0, 2013) + payload

def query(body, request_id=9):
    payload = struct.pack("<i", 0) + b"admin.$cmd\0" + struct.pack("<ii", 0, -1) + bson.encode(body)
    return struct.pack("<iiii", 16 + len(payload), request_id, 0, 2004) + payload

def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return struct.pack("<I", crc ^ 0xFFFFFFFF)

def checksummed(frame):
    frame = struct.pack("<i", len(frame) + 4) + frame[4:16] + struct.pack("<I", 1) + frame[20:]
    return frame + crc32c(frame)

def read_frame(sock):
    data = b""
    while len(data) < 4 or len(data) < struct.unpack("<i", data[:4])[0]:
        chunk = sock.recv(65536 if len(data) < 4 else struct.unpack("<i", data[:4])[0] - len(data))
        assert chunk, "closed"
        data += chunk
    return data

def talk(port, request, name, replies=1):
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(request)
        for index in range(replies):
            suffix = "" if replies == 1 else f"_{index}"
            open(os.path.join(out, f"{name}_reply{suffix}.bin"), "wb").write(read_frame(sock))
    open(os.path.join(out, f"{name}_request.bin"), "wb").write(request)

client = {"driver": {"name": "recorder", "version": "1"}, "os": {"type": "Linux"}}
hello = {"hello": 1, "helloOk": True, "client": client, "compression": ["snappy", "zlib"], "$db": "admin"}
legacy = {"ismaster": 1, "helloOk": True, "client": client, "compression": ["zstd"]}
for name, port in [("sa", standalone), ("rs", replset)]:
    talk(port, msg(hello), f"{name}_hello_msg")
    talk(port, checksummed(msg(hello)), f"{name}_hello_checksum")
    talk(port, query(legacy), f"{name}_ismaster_query")
with socket.create_connection(("127.0.0.1", replset)) as sock:
    sock.sendall(msg({"hello": 1, "$db": "admin"}))
    version = bson.decode(read_frame(sock)[21:])["topologyVersion"]
stream = {"hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 100, "$db": "admin"}
talk(replset, msg(stream, flags=0x10000), "rs_hello_stream", replies=3)
documents = b"".join(bson.encode({"_id": i, "x": "y" * i}) for i in range(3))
sequence = b"\x01" + struct.pack("<i", 4 + len(b"documents\0") + len(documents)) + b"documents\0" + documents
talk(standalone, msg({"insert": "c", "ordered": True, "$db": "vectors"}, extra=sequence), "sa_insert")
