# yt8m-data: the steps without TensorFlow. Its entry point validates data:
#   docker run yt8m-data --input train=... --input eval=... --output_dir ...
ARG BASE_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${BASE_IMAGE} AS packages
COPY docker/data.txt docker/kfp.txt /locks/
# Compile now, because the files are read-only later. Unchecked hashes instead of timestamps: the same
# packages give the same layer.
RUN python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps \
        --require-hashes -r /locks/data.txt -r /locks/kfp.txt \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

FROM ${BASE_IMAGE} AS code
COPY docker/entrypoint.sh /opt/yt8m/
COPY trainer /opt/yt8m/trainer
COPY components /opt/yt8m/components
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
    USER=yt8m
COPY --from=code /opt/yt8m /opt/yt8m
WORKDIR /opt/yt8m
USER 65532:65532
ENTRYPOINT ["/opt/yt8m/entrypoint.sh", "components.validate_data"]
