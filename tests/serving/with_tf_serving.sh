#!/usr/bin/env bash
# Exports the shipped voice and asks a real TensorFlow Serving for it, by gRPC and REST:
#
#     tests/serving/with_tf_serving.sh [IMAGE]
#
# Needs Docker, and a Python with `bark-tf[client]` (PYTHON, default python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

image=${1:-tensorflow/serving:2.19.1}
python=${PYTHON:-python3}
folder=$(mktemp -d)
container=

clean_up() {
    [ -z "$container" ] || docker rm --force "$container" >/dev/null
    rm -rf "$folder"
}
trap clean_up EXIT

"$python" -m bark_tf export --out "$folder/bark"
chmod -R a+rX "$folder"
container=$(docker run --detach --publish 127.0.0.1::8500 --publish 127.0.0.1::8501 \
    --volume "$folder:/models:ro" --volume "$PWD/deploy:/deploy:ro" "$image" \
    --model_config_file=/deploy/models.config \
    --monitoring_config_file=/deploy/monitoring.config)
grpc=$(docker port "$container" 8500/tcp)
rest=$(docker port "$container" 8501/tcp)

for _ in $(seq 120); do
    if curl --silent --fail "http://$rest/v1/models/bark" | grep --quiet AVAILABLE; then
        "$python" tests/serving/check_server.py "grpc://$grpc" "http://$rest"
        curl --silent --fail "http://$rest/monitoring/prometheus/metrics" |
            grep --quiet tensorflow
        exit
    fi
    sleep 1
done
docker logs "$container" >&2
exit 1
