"""The guest's side of the test of pip: installs packages into the user's site and uses each.

    packages.py URL PACKAGE...

URL is something that the host serves, for `requests`. Prints how long each takes, and ``well`` at the end.
"""

import io
import subprocess
import sys
import time


def use_idna(url):
    import idna

    return idna.encode("ドメイン.テスト").decode()


def use_requests(url):
    import requests

    answer = requests.get(url, timeout=60)
    assert answer.status_code == 200 and len(answer.content) == int(answer.headers["Content-Length"]), answer
    return f"{len(answer.content)} bytes"


def use_numpy(url):
    import numpy

    matrix = numpy.random.default_rng(1).standard_normal((200, 200))
    begun = time.monotonic()
    u, s, v = numpy.linalg.svd(matrix)
    taken = time.monotonic() - begun
    assert numpy.allclose(u * s @ v, matrix)
    return f"svd of 200x200 in {taken * 1000:.0f} ms"


def use_pillow(url):
    from PIL import Image

    picture = Image.linear_gradient("L").convert("RGB").resize((300, 200), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "PNG")
    again = Image.open(io.BytesIO(file.getvalue()))
    again.load()
    assert again.size == (300, 200) and again.tobytes() == picture.tobytes()
    return f"PNG of {len(file.getvalue())} bytes"


def use_cryptography(url):
    import datetime

    from cryptography import x509
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = Fernet(Fernet.generate_key())
    assert key.decrypt(key.encrypt(b"secret")) == b"secret"
    signer = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "piton")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(signer.public_key())
    made = made.serial_number(7).not_valid_before(now).not_valid_after(now + datetime.timedelta(1))
    certificate = made.sign(signer, hashes.SHA256())
    certificate.verify_directly_issued_by(certificate)
    return certificate.subject.rfc4514_string()


def use_pydantic(url):
    import pydantic

    class Point(pydantic.BaseModel):
        x: int
        names: list[str] = []

    assert Point(x="5", names=["a"]).model_dump() == {"x": 5, "names": ["a"]}
    try:
        Point(x="five")
    except pydantic.ValidationError as error:
        return error.errors()[0]["type"]
    raise AssertionError("not refused")


def main(url, *packages):
    for package in packages:
        begun = time.monotonic()
        command = [sys.executable, "-m", "pip", "install", package]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, (package, done.stdout)
        installed = time.monotonic()
        what = globals()[f"use_{package}"](url)
        used = time.monotonic() - installed
        print(f"{package}: installed in {installed - begun:.1f} s, used in {used:.1f} s: {what}", flush=True)
    print("well")


main(*sys.argv[1:])
