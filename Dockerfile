# A server with its models inside: docker build -t kserve . && docker run -p 8000:8000 kserve
#
# BASE is any Debian or Ubuntu with Python >= 3.10. The final image is BASE, the OpenMP runtime and /opt/kserve:
# no compiler, no pip, no torch. It needs no network, no writable file system and no root.
ARG BASE=docker.io/library/python:3.12-slim-bookworm

FROM ${BASE} AS build
# python3-dev and python3-venv belong to Debian's Python; an image that brings its own has them already.
RUN apt-get update -q \
 && apt-get install -qy --no-install-recommends g++ \
      $(test -e /usr/local/bin/python3 || echo python3-dev python3-venv) > /dev/null
# For a package index behind a certificate of its own; neither reaches the final image.
ARG PIP_CERT
ARG PIP_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv --without-pip /opt/kserve && python3 -m venv /opt/pip
COPY . /src
RUN /opt/pip/bin/pip --python /opt/kserve install --quiet --no-compile /src
COPY deploy/slim.py /src/
RUN /opt/kserve/bin/python /src/slim.py

FROM ${BASE}
RUN apt-get update -q \
 && apt-get install -qy --no-install-recommends libgomp1 > /dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY --from=build /opt/kserve /opt/kserve
# A read-only file system, and a user that no file of the image belongs to.
ENV PATH=/opt/kserve/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 KSERVE_HOST=0.0.0.0
USER 65532:65532
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as http; http.urlopen(f\"http://127.0.0.1:{os.environ.get('KSERVE_PORT', 8000)}/health\", timeout=4)"]
ENTRYPOINT ["kserve"]
CMD ["serve"]
