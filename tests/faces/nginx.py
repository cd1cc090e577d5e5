"""nginx.py - an nginx of a test's own, in front of one server."""

import os
import socket
import subprocess

from harness import free_port, wait_for

CONFIG = """
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
    server {{
        listen 127.0.0.1:{port} {tls};
        location / {{ proxy_pass http://{upstream}; {more} }}
    }}
}}
"""


def listens(address):
    try:
        socket.create_connection(address).close()
        return True
    except ConnectionRefusedError:
        return False


def start_nginx(test, folder, upstream, more="", certificates=None):
    """Its address, once it is served there; with a folder of certificates it takes https only."""
    address = ("127.0.0.1", free_port())
    tls = certificates and (f"ssl; ssl_certificate {certificates}/server.pem; "
                            f"ssl_certificate_key {certificates}/server.key")
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(
        user="user root;" if os.getuid() == 0 else "", folder=folder, port=address[1],
        tls=tls or "", upstream="%s:%d" % upstream, more=more))
    nginx = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(config),
                              "-e", f"{folder}/nginx.log", "-g", "daemon off;"],
                             env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"},
                             stderr=subprocess.DEVNULL)
    test.addCleanup(nginx.wait)
    test.addCleanup(nginx.terminate)
    wait_for(lambda: listens(address), "nginx to listen")
    return address
