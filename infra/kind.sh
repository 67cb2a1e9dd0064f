#!/usr/bin/env bash
# kind.sh up|down: a cluster on this machine with Kubeflow Pipelines, this project's images, and
# generated data on a volume; docs/kind.md explains each step.
set -euo pipefail
cd "$(dirname "$0")/.."

NAME=${NAME:-yt8m}
VERSION=${VERSION:-2.17.0}
KUSTOMIZE=github.com/kubeflow/pipelines/manifests/kustomize
KUBECTL=(kubectl --context "kind-$NAME" --namespace kubeflow)

up() {
    for program in docker kind kubectl; do
        command -v "$program" >/dev/null || { echo "error: $program is needed, and not found" >&2; exit 1; }
    done
    kind get clusters | grep --quiet --line-regexp "$NAME" || kind create cluster --name "$NAME"

    "${KUBECTL[@]}" apply -k "$KUSTOMIZE/cluster-scoped-resources?ref=$VERSION"
    "${KUBECTL[@]}" wait --for condition=established --timeout=60s crd/applications.app.k8s.io
    "${KUBECTL[@]}" apply -k "$KUSTOMIZE/env/platform-agnostic?ref=$VERSION"
    "${KUBECTL[@]}" wait pods --all --for condition=ready --timeout=15m

    make images
    kind load docker-image yt8m-data:0.1.0 yt8m-trainer:0.1.0 --name "$NAME"

    .venv/bin/python -m components.generate_data --directory=.cache/generated-video
    "${KUBECTL[@]}" apply -f infra/kubernetes/volume.yaml
    "${KUBECTL[@]}" wait pod/yt8m-files --for condition=ready --timeout=5m
    "${KUBECTL[@]}" cp .cache/generated-video yt8m-files:/data/video

    cat <<END
The cluster is ready. In another terminal:
    kubectl --context kind-$NAME port-forward --namespace kubeflow svc/ml-pipeline-ui 8080:80
and then:
    export KF_PIPELINES_ENDPOINT=http://localhost:8080
    make compile PROFILE=laptop
    make submit ARGS="--wait 'train_data=/data/video/train*.tfrecord' \\
        'eval_data=/data/video/eval*.tfrecord' vocabulary=/data/video/vocabulary.csv \\
        output_dir=/data/output batch_size=256 base_learning_rate=0.05"
END
}

down() {
    kind delete cluster --name "$NAME"
}

case ${1:-} in
up | down) "$1" ;;
*) echo "usage: infra/kind.sh up|down" >&2; exit 2 ;;
esac
