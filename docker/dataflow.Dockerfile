# yt8m-dataflow: the image of Dataflow's workers. yt8m-data with Beam's launcher and pip:
#   docker build --file docker/dataflow.Dockerfile --build-arg DATA_IMAGE=REGISTRY/yt8m-data:TAG \
#       --tag REGISTRY/yt8m-dataflow:TAG .
ARG DATA_IMAGE
# The Beam of docker/data.txt.
ARG BEAM_IMAGE=apache/beam_python3.11_sdk:2.77.0

FROM ${BEAM_IMAGE} AS beam

FROM ${DATA_IMAGE}
# Like Beam's own images: the launcher writes to a folder that Dataflow mounts.
# hadolint ignore=DL3002
USER 0
COPY --from=beam /opt/apache/beam /opt/apache/beam
# The launcher asks pip whether Beam is installed.
COPY --from=beam /usr/local/lib/python3.11/site-packages/pip /opt/venv/lib/python3.11/site-packages/pip
# Not in a virtual environment that the launcher would make: all packages are in /opt/venv.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
ENTRYPOINT ["/opt/apache/beam/boot"]
