# yt8m-trainer: the steps with TensorFlow. Its entry point trains:
#   docker run yt8m-trainer --model=MoeModel --train_data_pattern=... --train_dir=...
# VARIANT=gpu includes CUDA: a node needs only the driver.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm@sha256:65a93d69fa75478d554f4ad27c85c1e69fa184956261b4301ebaf6dbb0a3543d

FROM ${BASE_IMAGE} AS packages
ARG VARIANT=cpu
COPY docker/trainer-${VARIANT}.txt docker/kfp.txt /locks/
# Remove what only builds need: headers and Clang. Compile now, because the files are read-only later.
# Unchecked hashes instead of timestamps: the same packages give the same layer. The largest packages
# get a layer of their own, which a change of the others does not touch.
RUN python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --no-cache-dir --no-compile --no-deps \
        --require-hashes -r /locks/trainer-${VARIANT}.txt -r /locks/kfp.txt \
    && rm -r /opt/venv/lib/python3.11/site-packages/tensorflow/include \
        /opt/venv/lib/python3.11/site-packages/clang \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib \
    && mkdir /opt/largest \
    && for name in tensorflow nvidia; do \
        if [ -d /opt/venv/lib/python3.11/site-packages/$name ]; then \
            mv /opt/venv/lib/python3.11/site-packages/$name /opt/largest/; \
        fi; \
    done

FROM ${BASE_IMAGE} AS code
COPY docker/entrypoint.sh /opt/yt8m/
COPY trainer /opt/yt8m/trainer
COPY components /opt/yt8m/components
# Readable by any user, whatever the umask of the checkout.
RUN chmod -R a+rX /opt/yt8m \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/yt8m

FROM ${BASE_IMAGE}
COPY --from=packages /opt/largest /opt/venv/lib/python3.11/site-packages
COPY --from=packages /opt/venv /opt/venv
# HOME and USER: the user may have no entry in /etc/passwd. NVIDIA_*: the parts of the
# node's driver that the container gets. LD_LIBRARY_PATH: where GKE and Vertex AI mount the driver, and
# the one CUDA library that TensorFlow does not find where pip installs it.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/yt8m \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=yt8m \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/opt/venv/lib/python3.11/site-packages/nvidia/cusolver/lib \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=code /opt/yt8m /opt/yt8m
WORKDIR /opt/yt8m
USER 65532:65532
ENTRYPOINT ["/opt/yt8m/entrypoint.sh", "trainer.train"]
