#!/usr/bin/env bash
# kind.sh up|forward|down: a cluster on this machine with Kubeflow Pipelines, this project's images,
# and generated data on a volume. docs/kind.md explains each step.
set -euo pipefail
cd "$(dirname "$0")/.."

NAME=${NAME:-yt8m}
COMMIT=${COMMIT:-4a3592cb2dd0a91a4652ab93893ec8beda1f3158} # of Kubeflow Pipelines: its tag 2.17.0
PORT=${PORT:-8080}
KUSTOMIZE=github.com/kubeflow/pipelines/manifests/kustomize
KUBECTL=(kubectl --context "kind-$NAME" --namespace kubeflow)

up() {
    for program in docker kind kubectl; do
        command -v "$program" >/dev/null || { echo "error: $program is needed, and not found" >&2; exit 1; }
    done
    kind get clusters | grep --quiet --line-regexp "$NAME" || kind create cluster --name "$NAME"

    "${KUBECTL[@]}" apply -k "$KUSTOMIZE/cluster-scoped-resources?ref=$COMMIT"
    "${KUBECTL[@]}" wait --for condition=established --timeout=60s crd/applications.app.k8s.io
    "${KUBECTL[@]}" apply -k "$KUSTOMIZE/env/platform-agnostic?ref=$COMMIT"
    "${KUBECTL[@]}" wait deployments --all --for condition=available --timeout=15m

    make images
    kind load docker-image yt8m-data:0.1.0 yt8m-trainer:0.1.0 yt8m-serving:0.1.0 --name "$NAME"

    .venv/bin/python -m components.generate_data --directory=.cache/generated-video
    "${KUBECTL[@]}" apply -f infra/kubernetes/volume.yaml
    "${KUBECTL[@]}" wait pod/yt8m-files --for condition=ready --timeout=5m
    "${KUBECTL[@]}" cp .cache/generated-video yt8m-files:/data/video

    cat <<END
The cluster is ready. In another terminal:
    infra/kind.sh forward
and then:
    export KF_PIPELINES_ENDPOINT=http://localhost:$PORT
    make compile PROFILE=laptop
    make submit ARGS="--wait 'train_data=/data/video/train*.tfrecord' \\
        'eval_data=/data/video/eval*.tfrecord' vocabulary=/data/video/vocabulary.csv \\
        output_dir=/data/output batch_size=256 base_learning_rate=0.05"
or, to run whole pipelines in each of their endings:
    make test-cluster
END
}

forward() { # kubectl ends with the connection of a pod that restarts
    echo "Kubeflow Pipelines is at http://localhost:$PORT until you press Ctrl-C."
    while true; do
        "${KUBECTL[@]}" port-forward svc/ml-pipeline-ui "$PORT:80" || sleep 2
    done
}

down() {
    kind delete cluster --name "$NAME"
}

case ${1:-} in
up | forward | down) "$1" ;;
*) echo "usage: infra/kind.sh up|forward|down" >&2; exit 2 ;;
esac
