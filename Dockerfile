# One image for every process of Entrega; docker-compose.yml says which process a container runs.
FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/entrega
COPY requirements/runtime.txt requirements/runtime.txt
RUN /opt/entrega/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/runtime.txt
COPY . .
RUN /opt/entrega/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps .

FROM python:3.13-slim
# A fixed number, so that volumes and tmpfs mounts can be made for this user.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin entrega \
    && install -d -o entrega -g entrega -m 0700 /var/lib/entrega
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
