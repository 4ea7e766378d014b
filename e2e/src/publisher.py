"""publisher.py PORT HEARTBEAT_MS: a publisher by libzmq. A line on stdin is published as it stands; connections that come
and go are told on stdout."""

import sys
import threading

import zmq
from zmq.utils.monitor import recv_monitor_message

port, heartbeat = int(sys.argv[1]), int(sys.argv[2])
socket = zmq.Context().socket(zmq.PUB)
if heartbeat:
    socket.setsockopt(zmq.HEARTBEAT_IVL, heartbeat)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, heartbeat)
monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
socket.bind(f"tcp://127.0.0.1:{port}")
print(f"bound {port}", flush=True)


def tell():
    while True:
        event = recv_monitor_message(monitor)["event"]
        print("disconnected" if event == zmq.EVENT_DISCONNECTED else "connected", flush=True)


threading.Thread(target=tell, daemon=True).start()
for line in sys.stdin:
    socket.send(line.rstrip("\n").encode())
