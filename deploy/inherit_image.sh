#!/usr/bin/env bash
# Runs inside the image while it is built, after BentoML has installed the requirements into a virtual environment that
# hides what the image brings, and shadows it with newer versions. This makes the environment see the image's packages, and
# installs the requirements again, on top of those: what is there already and satisfies somebody is left alone, and what
# would replace a package of the image is an error.
set -euo pipefail
venv=${VIRTUAL_ENV:-/app/.venv}
requirements=${1:-${BENTO_PATH:-/home/bentoml/bento}/env/python/requirements.txt}
python=$venv/bin/python
image_python=$("$python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT

# Packages that the requirements name themselves may be newer than the image's: nothing of TensorRT-LLM needs them.
"$image_python" -I - "$requirements" > "$constraints" <<'PYTHON'
import re, sys
from importlib.metadata import distributions

def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()

with open(sys.argv[1]) as file:
    named = {normal(re.split(r"[^\w.-]", line.strip())[0]) for line in file if line[:1].isalnum()}
pins = {normal(found.metadata["Name"]): found.version for found in distributions() if found.metadata["Name"]}
print("\n".join(f"{name}=={version}" for name, version in sorted(pins.items()) if name not in named))
PYTHON

site=$("$python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
find "$site" -mindepth 1 -delete
if grep -q '^include-system-site-packages' "$venv/pyvenv.cfg"; then
  sed -i 's/^include-system-site-packages.*/include-system-site-packages = true/' "$venv/pyvenv.cfg"
else
  echo 'include-system-site-packages = true' >> "$venv/pyvenv.cfg"
fi
"$image_python" -m pip --python "$python" install --no-cache-dir --disable-pip-version-check \
  --constraint "$constraints" --requirement "$requirements"
echo "The environment $venv sees the packages of $image_python."
