#!/bin/sh
# Recreates the replicas of the service one after another, so that the others answer meanwhile: after a change of image,
# of settings, or of the version of a model. COMPOSE is the command, with its options, if not `docker compose`.
set -eu
compose=${COMPOSE:-docker compose}

healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' "$1" 2>/dev/null)" = healthy ]; }

wait_for_all() {
    tries=300
    for replica in $($compose ps --quiet service); do
        until healthy "$replica"; do
            tries=$((tries - 1))
            [ "$tries" -gt 0 ] || { echo "replica $replica is not healthy; the others still run" >&2; exit 1; }
            sleep 1
        done
    done
}

replicas=$($compose ps --quiet service)
wait_for_all
for replica in $replicas; do
    echo "replica $replica ends"
    docker stop --time "${GRACE_S:-45}" "$replica" >/dev/null
    docker rm "$replica" >/dev/null
    $compose up --detach --no-deps --no-recreate service
    wait_for_all
done
