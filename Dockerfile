# The service only: the log is on a NATS cluster (JOBLEDGER_NATS_URL). See docs/DEPLOY.md.
FROM python:3.13.16-slim-trixie AS build
WORKDIR /src
RUN python -m venv /opt/build && python -m venv /opt/jobledger
COPY deploy/build.lock deploy/requirements.lock ./
RUN /opt/build/bin/python -m pip install --no-cache-dir --require-hashes -r build.lock \
    && /opt/jobledger/bin/python -m pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY docs docs
COPY examples examples
COPY store store
COPY projections projections
COPY service service
COPY jobledger jobledger
RUN /opt/build/bin/python -m hatchling build --target wheel --directory /opt/wheel \
    && /opt/jobledger/bin/python -m pip install --no-cache-dir --no-deps --no-index /opt/wheel/*.whl \
    && /opt/jobledger/bin/python -m pip uninstall --yes pip

FROM python:3.13.16-slim-trixie
LABEL org.opencontainers.image.title="Jobledger" \
      org.opencontainers.image.description="An event-sourced store for the state of jobs" \
      org.opencontainers.image.licenses="Apache-2.0"
# A fixed uid, so that files on volumes have a known owner. New volumes inherit the owner of these directories.
RUN groupadd --gid 10001 jobledger \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/jobledger --shell /usr/sbin/nologin jobledger \
    && install --directory --owner 10001 --group 10001 --mode 0700 /var/lib/jobledger /var/lib/jobledger-tokens
COPY --from=build /opt/jobledger /opt/jobledger
ENV PATH=/opt/jobledger/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    JOBLEDGER_HOST=0.0.0.0 \
    JOBLEDGER_PORT=1234 \
    JOBLEDGER_DATA_DIR=/var/lib/jobledger
USER 10001:10001
WORKDIR /var/lib/jobledger
EXPOSE 1234
STOPSIGNAL SIGTERM
# Readiness, not only liveness. A service with its own certificate (JOBLEDGER_TLS_CERT) needs another check.
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request as web; web.urlopen('http://127.0.0.1:' + os.environ['JOBLEDGER_PORT'] + '/readyz', timeout=3)"]
ENTRYPOINT ["jobledger"]
CMD ["serve"]
