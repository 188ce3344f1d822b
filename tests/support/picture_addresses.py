"""What an image_url may not be, in the ways in which people have tried."""

from __future__ import annotations

PARTS = [
    "http:", "https:", "data:", "//", "/", "\\", "@", ":", "?", "#", "%", "%00", "%2e", "..", ".", "[", "]", "127.0.0.1", "::1", "pictures.example",
    "a.below.example", "ported.example", "8443", "80", "443", "xn--", "é", "\u017f", "\u212a", "\uff0e", "\ud800", "\0", " ", "\t", "\n", "image/png",
    ";base64", ",", "AAAA", "=", "~", "etc/passwd",
]  # fmt: skip
"""What addresses are put together of by chance."""
ALLOWED = ("pictures.example", "*.below.example", ".beneath.example", "ported.example:8443")
"""Domains that are allowed while these are tried."""
HERE = [
    "http://127.0.0.1/a.png", "http://localhost/a.png", "http://LOCALHOST./a.png", "http://127.1/", "http://127.0.1/", "http://0/",
    "http://2130706433/", "http://017700000001/", "http://0x7f000001/", "http://0x7f.0.0.1/", "http://0177.0.0.1/", "http://0.0.0.0/",
    "http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1:80/x", "http://100.64.0.1/", "http://224.0.0.1/",
    "http://240.0.0.1/", "http://255.255.255.255/", "http://169.254.169.254/latest/meta-data/", "http://2852039166/latest/",
    "http://0xA9FEA9FE/", "http://0251.0376.0251.0376/", "http://metadata.google.internal/computeMetadata/v1/",
    "http://[::1]/", "http://[::]/", "http://[0:0:0:0:0:0:0:1]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/", "http://[::ffff:169.254.169.254]/", "http://[64:ff9b::7f00:1]/", "http://[64:ff9b:1::7f00:1]/",
    "http://[2002:7f00:1::]/", "http://[2002:a9fe:a9fe::1]/", "http://[2001:0:7f00:1::1]/", "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/", "http://[fc00::1]/", "http://[fd00:ec2::254]/", "http://[fec0::1]/", "http://[ff02::1]/",
    "http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://１２７.0.0.1/",
]  # fmt: skip
"""Addresses of this machine and its neighbours, in all the ways in which they are written."""
DISGUISED = [
    "http://pictures.example@127.0.0.1/", "http://127.0.0.1#@pictures.example/", "http://127.0.0.1\\@pictures.example/",
    "http://pictures.example\\@127.0.0.1/", "http://user:secret@pictures.example/", "http://@pictures.example/",
    "http://127.0.0.1%2f@pictures.example/", "http://127.0.0.1%23.pictures.example/", "http://127.0.0.1 .pictures.example/",
    "http://pictures.example\t.evil.example/", "http://pictures.example\r\nHost: 127.0.0.1/", "http://pictures.example\0.evil.example/",
    "http://pictures.example.evil.example/", "http://evilpictures.example/", "http://below.example/", "http://evilbelow.example/",
    "http://beneath.example/", "http://.below.example/", "http://..below.example/", "http://a..below.example/",
    "http://pictures.example:8080/", "http://pictures.example:443/", "https://pictures.example:80/", "http://pictures.example:0/",
    "http://pictures.example:99999/", "http://pictures.example:٨٠/", "http://pictures.example:22/", "https://ported.example/",
    "https://ported.example:443/", "http://pictures.example:80:80/", "http://[pictures.example]/", "http://[::1/", "http://",
    "http:///a.png", "https://?", "http://:80/", "http://exam%70le.com/", "http://pіctures.example/", "http://pictures.example/\u017f.png", "http://pictures.example/\u212a", "http://127.0.0.1.below.example:1/",
]  # fmt: skip
"""Allowed domains, as programs may misread them."""
OTHERWISE = [
    "", " ", "/etc/passwd", "/etc/hostname", "etc/passwd", "../../etc/passwd", "./a.png", "~/a.png", "C:\\Windows\\win.ini",
    "\\\\127.0.0.1\\share\\a.png", "//127.0.0.1/share/a.png", "\\\\?\\C:\\a.png", "file:///etc/passwd", "file:/etc/passwd",
    "FILE:///etc/passwd", "file://localhost/etc/passwd", "file:///proc/self/environ", "/dev/zero", "/proc/self/fd/0", "gopher://127.0.0.1:70/_x",
    "ftp://pictures.example/a.png", "ftps://pictures.example/", "sftp://pictures.example/", "ldap://127.0.0.1/", "dict://127.0.0.1:11211/",
    "jar:http://pictures.example!/", "javascript:alert(1)", "blob:http://pictures.example/x", "ws://pictures.example/", "s3://bucket/a.png",
    "hdfs://a/b", "hf://datasets/a", "smb://127.0.0.1/a", "php://input", "view-source:http://pictures.example/", "http:pictures.example/a",
    "http:/pictures.example/a.png", "https:pictures.example", "url:http://pictures.example/", " http://pictures.example/",
    "\nhttp://pictures.example/", " data:image/png;base64,AAAA", "iVBORyBub3QgcmVhbGx5", "iVBORw0KGgoAAAANSUhEUgAA", "|touch /tmp/a", "$(touch a)", "\0",
    "\ud800", "about:blank", "mailto:a@b.c",
]  # fmt: skip
"""No address at all."""
DATA_OF_OTHERS = [
    "data:", "data:,", "data:;base64,AAAA", "data:text/html;base64,AAAA", "data:text/plain,hello", "data:image/svg+xml;base64,PHN2Zz4=",
    "data:image/svg+xml,<svg/>", "data:IMAGE/SVG+XML;charset=utf-8;base64,PHN2Zz4=", "data:image/svg;base64,AAAA", "data:application/pdf;base64,AAAA",
    "data:application/octet-stream;base64,AAAA", "data:image/png,%89PNG", "data:image/png;base64", "data:image/png;base64,",
    "data:image/png;base64,AAA", "data:image/png;base64,AAAA=", "data:image/png;base64,AA==AAAA", "data:image/png;base64,AAAA\n",
    "data:image/png;base64,AA AA", "data:image/png;base64,_-_-", "data:image/png;base64,é", "data:image/png;base64,AAA%", "data:image/png;base64,=",
    "data:image/*;base64,AAAA", "data:image/;base64,AAAA", "data:video/mp4;base64,AAAA", "data:image/x-icon;base64,AAAA", "data:image/jp2;base64,AAAA",
    "data:image/png;base64;base64,AAAA;", "data:text/html;image/png;base64,AAAA", "data:image/png;" + "a=b;" * 100 + "base64,AAAA",
    "data:image/png;base64,AAA\0", "data:image/png;base64,AAA\ud800", "DATA:text/html;base64,AAAA", "data://image/png;base64,AAAA", "data:image/png;ba\u017fe64,AAAA",
]  # fmt: skip
"""Data that is no picture."""
