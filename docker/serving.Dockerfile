# yt8m-serving: the model server. Its entry point serves the newest version in a folder:
#   docker run --publish 8080:8080 --volume "$PWD/served:/served:ro" yt8m-serving --served_dir=/served
ARG BASE_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${BASE_IMAGE} AS packages
COPY docker/serving.txt /locks/
# Remove what only builds need. Compile now, because the files are read-only later. Unchecked hashes
# instead of timestamps: the same packages give the same layer.
RUN python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps \
        --require-hashes -r /locks/serving.txt \
    && rm -r /opt/venv/lib/python3.11/site-packages/tensorflow/include \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

FROM ${BASE_IMAGE} AS code
COPY docker/entrypoint.sh /opt/yt8m/
COPY trainer /opt/yt8m/trainer
# Readable by any user, whatever the umask of the checkout.
RUN chmod -R a+rX /opt/yt8m \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/yt8m

FROM ${BASE_IMAGE}
COPY --from=packages /opt/venv /opt/venv
# HOME and USER: the user may have no entry in /etc/passwd.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/yt8m \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=yt8m \
    TF_CPP_MIN_LOG_LEVEL=2
COPY --from=code /opt/yt8m /opt/yt8m
WORKDIR /opt/yt8m
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/opt/yt8m/entrypoint.sh", "trainer.serving.server"]
