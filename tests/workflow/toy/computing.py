import hashlib
import json
import os
import time
from pathlib import Path


def compute(job, salt, path):
    """Every product gets a digest of the inputs and of `salt`, so that a change shows in all that follows."""
    with open("journal.txt", "a") as journal:
        journal.write(f"{job.name}\n")
    time.sleep(float(os.environ.get("TOY_SECONDS", 0)))
    content = hashlib.sha256(f"{job.item} {salt}".encode())
    for file in job.inputs:
        content.update(Path(file).read_bytes())
    for product in job.products:
        path(product).write_text(text(content.hexdigest(), product))


def text(digest, product):
    if product.endswith(".csv"):
        return f"step,value\n1,{int(digest[:4], 16)}\n"
    return json.dumps({"value": int(digest[:4], 16), "file": product})
