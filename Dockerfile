# One image for every process of Entrega; docker-compose.yml says which process a container runs.
# The base is named by tag, not by digest, so that a rebuild gets the newest fixes of Debian and Python.
FROM python:3.13-slim AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Two environments: what builds the image stays out of it, pip and setuptools included.
RUN python -m venv /opt/build && python -m venv --without-pip /opt/entrega
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN /opt/build/bin/pip install --no-deps --require-hashes -r requirements/build.txt \
    && /opt/build/bin/pip --python /opt/entrega/bin/python install --no-deps --require-hashes -r requirements/runtime.txt
COPY . .
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/entrega/bin/python install --no-deps /wheels/*.whl \
    && /opt/build/bin/pip --python /opt/entrega/bin/python check

FROM python:3.13-slim
# A fixed number, so that volumes and tmpfs mounts can be made for this user. Nothing is installed in a container.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin entrega \
    && install -d -o entrega -g entrega -m 0700 /var/lib/entrega \
    && python -m pip uninstall --yes --quiet --root-user-action=ignore pip
COPY --from=build /opt/entrega /opt/entrega
ENV PATH=/opt/entrega/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ENTREGA_DATA=/var/lib/entrega \
    ENTREGA_LOG=json
USER entrega
# Not the source folder: the packages come from the virtual environment, and a stray .env is never read.
WORKDIR /var/lib/entrega
# Exec form everywhere, so that SIGTERM reaches Celery itself: a warm stop finishes the calls that are under way.
CMD ["celery", "-A", "worker", "worker", "--loglevel=INFO", "--without-gossip", "--without-mingle"]
