# SideCart as an image: `docker build -t sidecart .`. docs/image.md says how to run it.

# python:3.13-slim, Python 3.13.15 on Debian, amd64 and arm64. The digest is that of the tag's index: a published build
# log of 2026-09-28 and a published Dockerfile have it. Dependabot proposes newer ones.
FROM python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b AS base


FROM base AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# The packages come first: a change of the source leaves this layer alone. Wheels only, so nothing needs a compiler, and
# a package without a wheel for the platform stops the build instead of running a setup script.
COPY requirements.lock requirements.runtime.lock ./
RUN python3 -m venv --without-pip /opt/sidecart \
    && python3 -m pip --python /opt/sidecart/bin/python install --only-binary :all: --require-hashes -r requirements.runtime.lock \
    && python3 -m venv builder \
    && sed -n '/^setuptools==/,/[^\\]$/p' requirements.lock > setuptools.lock \
    && builder/bin/pip install --only-binary :all: --require-hashes -r setuptools.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
COPY tools/rds_bundle.py tools/
# AWS's current bundle instead of the shipped one:
# --build-arg RDS_CA_URL=https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem, best with its RDS_CA_SHA256.
ARG RDS_CA_URL=""
ARG RDS_CA_SHA256=""
RUN if [ -n "$RDS_CA_URL" ]; then python3 tools/rds_bundle.py "$RDS_CA_URL" "$RDS_CA_SHA256" proxy/data/rds-ca.pem; fi \
    && builder/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheel . \
    && python3 -m pip --python /opt/sidecart/bin/python install --no-index --no-deps wheel/*.whl


FROM base AS image
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="SideCart" \
      org.opencontainers.image.description="A PostgreSQL wire-protocol proxy that makes a production database safe to read." \
      org.opencontainers.image.licenses="MIT AND GPL-3.0-or-later" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
# Nothing here installs anything: pip goes, in the base's Python too. The user has a name for those who look, and no home.
# A volume on /var/log/sidecart takes over the folder's owner: for SIDECART_LOG_FILE, the only file ever written.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/*-packages/pip* /usr/local/lib/python3*/ensurepip \
    && groupadd --gid 65532 sidecart \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sidecart \
    && install --directory --owner=65532 --group=65532 --mode=0750 /var/log/sidecart
COPY --from=build /opt/sidecart /opt/sidecart
# Clients come from outside of the container. The pages stay on its loopback until SIDECART_METRICS_HOST opens them.
ENV PATH=/opt/sidecart/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SIDECART_LISTEN_HOST=0.0.0.0
WORKDIR /opt/sidecart
USER 65532:65532
EXPOSE 6432 9632
STOPSIGNAL SIGTERM
# A server that vanishes is noticed within 15 s (docs/image.md): two tries more stay below half a minute.
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s --retries=2 CMD ["sidecart", "health"]
ENTRYPOINT ["sidecart"]
CMD ["serve"]
